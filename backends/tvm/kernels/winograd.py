"""3 x 3 layers where products are of int16: Winograd's F(2 x 2, 3 x 3), exact in integers, 16 products for 36.

Four outputs of a 2 x 2 tile are `A.T @ ((G @ g @ G.T) * (B.T @ d @ B)) @ A` with 3 x 3 weights g and 4 x 4 codes d.
B and A hold 0, 1 and -1; G holds halves, so it is doubled here and the result is four times the sum: a shift brings it
back exactly. Transformed codes stay below 1024 and transformed weights below 1153, which int16 holds and bytes would
not: kernels that multiply bytes do not use it.

Codes and weights are transformed, each of the 16 products of a tile is summed over the input channels, and the
transform of these totals is requantized like any other sums. [S. Winograd, Arithmetic Complexity of Computations, 1980;
A. Lavin, S. Gray, arXiv:1509.09308]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.tvm.instructions.base import PACK, Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Call, Code, last_fits
from isobit.backends.tvm.kernels.layer import (
    Layer,
    Numbers,
    Sums,
    kernel_name,
    layer_call,
    layer_numbers,
    write_border,
    write_outputs,
    write_unpacked,
)
from isobit.backends.tvm.kernels.layout import Place, output_of
from isobit.backends.tvm.kernels.tile import Tile, choose_tile
from isobit.backends.tvm.kernels.weights import cut

OUT, PATCH, TAPS = 2, 4, 3  # sides of output tile, input patch and weights
CODES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B.T
WEIGHTS = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))  # 2 G
SUMS = ((1, 1, 1, 0), (0, 1, -1, -1))  # A.T
LARGEST_CODE = 4 * 255  # after the transform
SECOND_CACHE = 640 * 1024  # bytes of transformed weights that are kept for the whole layer
MOST_VECTORS = 2  # of a block: four outputs each are requantized at once, and all that is code
CHANNELS = 16  # transformed at once
LINE = 32  # int16 of a cache line: planes are that much apart, or powers of two would all fall into the same sets


def is_winograd(step: Conv, program: Program, places: list[Place], e: InstructionSet) -> bool:
    """A dense 3 x 3 layer of stride 1 on a map, whose transformed sums fit int32 for any codes."""
    window = step.window
    if not (e.winograd and window.kernel == (TAPS, TAPS) and window.stride == window.dilation == (1, 1)
            and step.groups == 1 and step.rescale is not None):
        return False
    target = places[output_of(step)]
    if min(target.height, target.width) < OUT or places[step.inputs[0]].pixel < CHANNELS:
        return False
    rows = np.array(WEIGHTS)
    transformed = np.einsum("ir,krsc,js->kcij", rows, step.weights.codes.astype(np.int64), rows)
    largest = np.abs(transformed).sum(1).max() * LARGEST_CODE
    return bool(largest * (TAPS * TAPS) < 1 << 31)


@dataclass(frozen=True)
class _Plan:
    """Which tiles are transformed and multiplied before they are requantized.

    Args:
        layer: its tile is one of outputs, and the vectors of a block.
        by_row: one row of tiles after the other, all transformed weights being kept; else all tiles of the map, with
            one block of transformed weights.
        columns: tiles whose products are summed at once.
    """

    layer: Layer
    by_row: bool
    columns: int

    @property
    def down(self) -> int:
        return -(-self.layer.height // OUT)

    @property
    def across(self) -> int:
        return -(-self.layer.width // OUT)

    @property
    def tiles(self) -> int:
        return self.across * (1 if self.by_row else self.down)

    def index(self, row: Expr, column: Expr) -> Index:
        """Number of a tile among those that are transformed together."""
        return column if self.by_row else row * self.across + column

    @property
    def weights(self) -> int:
        """Elements from one of the 16 transformed weights of a block to the next."""
        return self.layer.block.groups * self.layer.block.vectors * self.layer.unit + LINE

    def block(self, block: Expr) -> Index:
        """Offset of the transformed weights of a block."""
        return block * (PATCH * PATCH * self.weights) if self.by_row else 0

    @property
    def codes(self) -> int:
        """Elements from one of the 16 transformed codes of the tiles to the next."""
        return self.tiles * self.layer.source.pixel + LINE

    @property
    def width(self) -> int:
        """Sums of one tile and block."""
        return self.layer.block.vectors * self.layer.e.lanes

    @property
    def sums(self) -> int:
        """Elements from one of the 16 sums of the tiles to the next."""
        return self.tiles * self.width + LINE // 2


def winograd_call(step: Conv, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The call of such a layer."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    filters, channels = step.weights.codes.shape[0], step.weights.codes.shape[3]
    residual = places[step.inputs[1]] if step.residual else None
    by_row = PATCH * PATCH * target.pixel * channels * e.operand_bytes <= SECOND_CACHE
    tiles = -(-target.width // OUT) * (1 if by_row else -(-target.height // OUT))
    products = choose_tile(1, tiles, -(-filters // e.lanes), lambda vectors: -(-channels // e.group), e,
                           MOST_VECTORS)
    layer = Layer(step, source, target, residual, e, Tile(OUT, OUT, products.vectors),
                  cut(step, source.pixel, e, products.vectors))
    plan = _Plan(layer, by_row, products.columns)
    numbers = layer_numbers(layer, program, unpacked_first=True)
    return layer_call(kernel_name(step), layer, numbers, lambda code: _write(code, plan, numbers))


@dataclass(frozen=True)
class _Buffers:
    """Scratch.

    Args:
        sums: vectors of a tile, in registers.
        packed: four of them as bytes.
        unpacked: weights of a block, [taps][groups * vectors].
        weights: transformed, [16][groups * vectors].
        codes: transformed, [16][tiles][channels].
        totals: over the input channels, [16][tiles][channels of a block].
    """

    sums: list[Buffer]
    packed: Buffer
    unpacked: Buffer
    weights: Buffer
    codes: Buffer
    totals: Buffer


def _buffers(code: Code, plan: _Plan) -> _Buffers:
    layer, e, block = plan.layer, plan.layer.e, plan.layer.block
    return _Buffers(
        code.sums(max(plan.columns, OUT * OUT) * block.vectors, e.lanes),
        code.scratch("packed", PACK * e.lanes, "uint8"),
        code.scratch("unpacked", layer.packed_steps * layer.unit, e.operand),
        code.scratch("transformed_weights", PATCH * PATCH * plan.weights * (block.blocks if plan.by_row else 1),
                     e.operand),
        code.scratch("transformed_codes", PATCH * PATCH * plan.codes, e.operand),
        code.scratch("totals", PATCH * PATCH * plan.sums, "int32"),
    )


def _write(code: Code, plan: _Plan, numbers: Numbers) -> None:
    buffers = _buffers(code, plan)
    write_border(code, plan.layer, numbers)
    (_write_by_row if plan.by_row else _write_by_block)(code, plan, numbers, buffers)


def _write_by_row(code: Code, plan: _Plan, numbers: Numbers, buffers: _Buffers) -> None:
    blocks = plan.layer.block.blocks
    with code.loop("block", blocks) as block:
        _write_weights(code, plan, numbers, buffers, block)
    with code.loop("tile_row", plan.down) as row:
        with code.loop("tile_column", plan.across) as column:
            _write_codes(code, plan, buffers, row, column)
        with code.loop("block", blocks) as block:
            _write_totals(code, plan, buffers, block)
            with code.loop("tile_column", plan.across) as column:
                _write_tile(code, plan, numbers, buffers, block, row, column)


def _write_by_block(code: Code, plan: _Plan, numbers: Numbers, buffers: _Buffers) -> None:
    with code.loop("tile_row", plan.down) as row, code.loop("tile_column", plan.across) as column:
        _write_codes(code, plan, buffers, row, column)
    with code.loop("block", plan.layer.block.blocks) as block:
        _write_weights(code, plan, numbers, buffers, block)
        _write_totals(code, plan, buffers, block)
        with code.loop("tile_row", plan.down) as row, code.loop("tile_column", plan.across) as column:
            _write_tile(code, plan, numbers, buffers, block, row, column)


def combine(rows: Sequence[Sequence[int]], grid: Sequence[Sequence[Expr]], i: int, j: int) -> Expr:
    """Element (i, j) of `rows @ grid @ rows.T`, factors -2 ... 2; the compiler finds what elements share."""
    return _weighted(rows[i], [_weighted(rows[j], line) for line in grid])


def _weighted(factors: Sequence[int], values: Sequence[Expr]) -> Expr:
    """Sum of factor * value by additions; positive factors, of which there is one, first."""
    terms = sorted(zip(factors, values, strict=True), key=lambda pair: -pair[0])
    factor, value = terms[0]
    total = value + value if factor == 2 else value
    for factor, value in terms[1:]:
        term = value + value if abs(factor) == 2 else value
        if factor > 0:
            total = total + term
        elif factor < 0:
            total = total - term
    return total


def _write_weights(code: Code, plan: _Plan, numbers: Numbers, buffers: _Buffers, block: Expr) -> None:
    """Unpack and transform the weights of a block."""
    e, count, unit = plan.layer.e, plan.layer.block.groups * plan.layer.block.vectors, plan.layer.unit
    write_unpacked(code, plan.layer, numbers, block, buffers.unpacked, 0)
    with code.loop("vector", count) as i:
        grid = [
            [e.load(buffers.unpacked, ((r * TAPS + s) * count + i) * unit, unit) for s in range(TAPS)]
            for r in range(TAPS)
        ]
        for place in range(PATCH * PATCH):
            transformed = combine(WEIGHTS, grid, *divmod(place, PATCH))
            code.store(buffers.weights, plan.block(block) + place * plan.weights + i * unit, transformed, unit)


def _write_codes(code: Code, plan: _Plan, buffers: _Buffers, row: Expr, column: Expr) -> None:
    """Transform the codes of a tile."""
    layer, source, window, e = plan.layer, plan.layer.source, plan.layer.step.window, plan.layer.e
    y, x = last_fits(code, row, OUT, layer.height), last_fits(code, column, OUT, layer.width)
    tile = plan.index(row, column)
    with code.loop("channels", source.pixel // CHANNELS) as i:
        corner = source.at(-window.padding[0], -window.padding[1]) + y * source.row + x * source.pixel + i * CHANNELS
        grid = [
            [e.cast(f"int16x{CHANNELS}",
                    e.load(code["input"], corner + (r * source.row + s * source.pixel), CHANNELS))
             for s in range(PATCH)] for r in range(PATCH)
        ]
        for number in range(PATCH * PATCH):
            transformed = combine(CODES, grid, *divmod(number, PATCH))
            place = number * plan.codes + tile * source.pixel + i * CHANNELS
            code.store(buffers.codes, place, transformed, CHANNELS)


def _write_totals(code: Code, plan: _Plan, buffers: _Buffers, block: Expr) -> None:
    """Multiply transformed codes and weights, and sum over the input channels."""
    e, cut_block = plan.layer.e, plan.layer.block
    with (
        code.loop("product", PATCH * PATCH) as k,
        code.loop("tiles", -(-plan.tiles // plan.columns)) as number,
    ):
        first = last_fits(code, number, plan.columns, plan.tiles)
        sums = [(vector, *divmod(i, cut_block.vectors))
                for i, vector in enumerate(buffers.sums[:plan.columns * cut_block.vectors])]
        for total, _, _ in sums:
            code.store(total, 0, e.splat(e.number("int32", 0)), e.lanes)
        with code.loop("group", cut_block.groups) as group:
            for total, tile, vector in sums:
                codes = k * plan.codes + (first + tile) * plan.layer.source.pixel + group * e.group
                weights = plan.block(block) + k * plan.weights \
                    + (group * cut_block.vectors + vector) * plan.layer.unit
                product = e.dot(e.load(total, 0), buffers.codes, codes, buffers.weights, weights)
                code.store(total, 0, product, e.lanes)
        for total, tile, vector in sums:
            place = k * plan.sums + (first + tile) * plan.width + vector * e.lanes
            code.store(buffers.totals, place, e.load(total, 0), e.lanes)


def _write_tile(
    code: Code, plan: _Plan, numbers: Numbers, buffers: _Buffers, block: Expr, row: Expr, column: Expr
) -> None:
    """Transform the totals of a tile back to its sums, and write what becomes of them."""
    layer, e = plan.layer, plan.layer.e
    tile = plan.index(row, column)
    for i in range(layer.tile.sums):
        pixel, vector = divmod(i, layer.block.vectors)
        grid = [
            [e.load(buffers.totals, (r * PATCH + s) * plan.sums + tile * plan.width + vector * e.lanes)
             for s in range(PATCH)] for r in range(PATCH)
        ]
        total = e.shift_right(combine(SUMS, grid, *divmod(pixel, OUT)), 2)
        bias = e.load(code["numbers"], numbers.bias + layer.channel(block, i))
        code.store(buffers.sums[i], 0, total + bias, e.lanes)
    y, x = last_fits(code, row, OUT, layer.height), last_fits(code, column, OUT, layer.width)
    write_outputs(code, layer, numbers, Sums(buffers.sums, buffers.packed, block, y, x))
