"""3 x 3 layers by Winograd's F(2 x 2, 3 x 3), exact in integers: 16 products for 36.

Four outputs of a 2 x 2 tile are `A.T @ ((G @ g @ G.T) * (B.T @ d @ B)) @ A` with 3 x 3 weights g and 4 x 4 codes d.
B and A hold 0, 1 and -1; G holds halves, so it is doubled here and the result is four times the sum: a shift brings it
back exactly.

* In int16: transformed codes stay below 1024 and transformed weights below 1153, whatever they were.
* In bytes: codes 0 ... c become -2c ... 2c, and 0 ... 4c where both rows of B add. With 2c added where they may be
  negative they are bytes for c up to 63, without it signed bytes for c up to 31. The weights of 4 bits, transformed,
  are signed bytes. What the 2c add to the sums is a constant for each channel and output of a tile, which the bias
  takes back.

Codes and weights are transformed, each of the 16 products of a tile is summed over the input channels, and the
transform of these totals is requantized like any other sums. [S. Winograd, Arithmetic Complexity of Computations, 1980;
A. Lavin, S. Gray, arXiv:1509.09308]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.tvm.instructions.base import PACK, Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Call, Code, last_fits
from isobit.backends.tvm.kernels.layers.layer import (
    CODES_OFFSET,
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
from isobit.backends.tvm.kernels.layers.narrow import Operands, longest_run, narrow_sums, write_reduction
from isobit.backends.tvm.kernels.layers.tile import Tile, choose_tile
from isobit.backends.tvm.kernels.layers.weights import cut
from isobit.backends.tvm.kernels.layout import Place, output_of

OUT, PATCH, TAPS = 2, 4, 3  # sides of output tile, input patch and weights
CODES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B.T
WEIGHTS = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))  # 2 G
SUMS = ((1, 1, 1, 0), (0, 1, -1, -1))  # A.T
SECOND_CACHE = 640 * 1024  # bytes of transformed weights that are kept for the whole layer
MOST_TILES = 4  # whose products are summed at once: their reductions are short, and the next ones overlap them
# Dot products that take as long as the transform of a vector of weights; each call does that again.
WEIGHTS_COST = 120
MOST_VECTORS = 2  # of a block: four outputs each are requantized at once, and all that is code
CHANNELS = 16  # transformed at once
LINE = 32  # elements of a cache line: planes are that much apart, or powers of two would all fall into the same sets


def winograd_set(step: Conv, program: Program, places: list[Place], e: InstructionSet) -> InstructionSet | None:
    """The instructions that a layer is transformed for; None where it is not.

    It is a dense 3 x 3 layer of stride 1 on a map, whose transformed sums fit int32 for any codes, and which has fewer
    products so, the cost of transforming its weights included.
    """
    window = step.window
    if not (window.kernel == (TAPS, TAPS) and window.stride == window.dilation == (1, 1)
            and step.groups == 1 and step.rescale is not None):
        return None
    target = places[output_of(step)]
    tiles = -(-target.height // OUT) * -(-target.width // OUT)
    if min(target.height, target.width) < OUT or places[step.inputs[0]].pixel < CHANNELS \
            or tiles * PATCH * PATCH + WEIGHTS_COST >= target.height * target.width * TAPS * TAPS:
        return None
    transformed = _transformed(step)
    largest = largest_codes(program)[step.inputs[0]]
    if int(np.abs(transformed).sum(1).max()) * 4 * largest * TAPS * TAPS + 4 * int(np.abs(step.bias).max()) >= 1 << 31:
        return None
    by_bytes = e.by_bytes(largest) or e
    if by_bytes.operand == "int8" and by_bytes.transforms_bytes and 4 * largest <= (127 if e.signed_input else 255) \
            and transformed.min() >= -128 and transformed.max() <= 127 \
            and (not by_bytes.narrow or _run(step, by_bytes, largest)):
        return by_bytes
    return e if e.winograd else None


def _transformed(step: Conv) -> np.ndarray:
    """Weights [K, C, 4, 4] after the transform."""
    rows = np.array(WEIGHTS)
    return np.einsum("ir,krsc,js->kcij", rows, step.weights.codes.astype(np.int64), rows)


def _run(step: Conv, e: InstructionSet, largest: int) -> int:
    """How many dot products of transformed codes and weights may be added in 16 bits."""
    transformed = _transformed(step)
    filters, channels = transformed.shape[:2]
    groups = -(-channels // e.group)
    padded = np.zeros((PATCH * PATCH, filters, groups * e.group), np.int64)
    padded[:, :, :channels] = transformed.transpose(2, 3, 0, 1).reshape(PATCH * PATCH, filters, channels)
    vectors = padded.reshape(PATCH * PATCH, filters, groups, e.group).transpose(0, 2, 1, 3)
    flat = vectors.reshape(PATCH * PATCH, groups, -1)
    return longest_run(e.by_sum(flat), [groups], 4 * largest)


@dataclass(frozen=True)
class _Plan:
    """Which tiles are transformed and multiplied before they are requantized.

    Args:
        layer: its tile is one of outputs, and the vectors of a block.
        by_row: one row of tiles after the other, all transformed weights being kept; else all tiles of the map, with
            one block of transformed weights.
        columns: tiles whose products are summed at once.
        shift: what is added to transformed codes that may be negative; None where they are of 16 bits.
    """

    layer: Layer
    by_row: bool
    columns: int
    shift: int | None

    @property
    def codes_kind(self) -> str:
        """Type of transformed codes."""
        return "int16" if self.shift is None else "uint8"

    @property
    def chunk(self) -> int:
        """Channels of codes that are transformed at once: what divides a pixel and fills a vector."""
        most = CHANNELS if self.shift is None else 4 * self.layer.e.lanes
        return max(size for size in (16, 32, 64) if self.layer.source.pixel % size == 0 and size <= max(most, 16))

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
    """The call of such a layer; `e` is what `winograd_set` found."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    filters, channels = step.weights.codes.shape[0], step.weights.codes.shape[3]
    largest = largest_codes(program)[step.inputs[0]]
    shift = None if e.operand != "int8" else CODES_OFFSET if e.signed_input else 2 * largest
    residual = places[step.inputs[1]] if step.residual else None
    by_row = PATCH * PATCH * target.pixel * channels * e.operand_bytes <= SECOND_CACHE
    tiles = -(-target.width // OUT) * (1 if by_row else -(-target.height // OUT))
    products = choose_tile(1, tiles, -(-filters // e.lanes), lambda vectors: -(-channels // e.group), e,
                           MOST_VECTORS, one_loop=True, columns=MOST_TILES)
    layer = Layer(step, source, target, residual, e, Tile(OUT, OUT, products.vectors),
                  cut(step, source.pixel, e, products.vectors), _run(step, e, largest) if e.narrow else 0)
    plan = _Plan(layer, by_row, products.columns, shift)
    bias = None if shift is None else _biases(layer, program, shift)
    numbers = layer_numbers(layer, program, unpacked_first=True, bias=bias)
    return layer_call(kernel_name(step), layer, numbers, lambda code: _write(code, plan, numbers))


def _biases(layer: Layer, program: Program, shift: int) -> np.ndarray:
    """Four times the bias of each output of a tile, less what the shift of codes adds: int64 [4, channels], flat."""
    step, enters = layer.step, 0 if layer.e.signed_input else shift
    added = np.array([[enters * _is_shifted(i, j) for j in range(PATCH)] for i in range(PATCH)])
    back = np.array(SUMS)
    extra = np.einsum("pi,kcij,qj->pqk", back, _transformed(step) * added, back)
    zero = program.buffers[step.inputs[0]].zero_point
    bias = step.bias.astype(np.int64) - zero * step.weights.codes.astype(np.int64).sum((1, 2, 3))
    found = np.zeros((OUT * OUT, layer.channels), np.int64)
    found[:, :len(bias)] = 4 * bias - extra.reshape(OUT * OUT, -1)
    return found.reshape(-1)


def _is_shifted(i: int, j: int) -> bool:
    """A transformed code at this place may be negative."""
    return min(*CODES[i], *CODES[j]) < 0


@dataclass(frozen=True)
class _Buffers:
    """Scratch.

    Args:
        sums: vectors of a tile, in registers.
        narrow: of runs of dot products, in 16 bits.
        packed: four of them as bytes.
        unpacked: weights of a block, [taps][groups * vectors].
        weights: transformed, [16][groups * vectors].
        codes: transformed, [16][tiles][channels].
        totals: over the input channels, [16][tiles][channels of a block].
    """

    sums: list[Buffer]
    narrow: list[Buffer]
    packed: Buffer
    unpacked: Buffer
    weights: Buffer
    codes: Buffer
    totals: Buffer


def _buffers(code: Code, plan: _Plan) -> _Buffers:
    layer, e, block = plan.layer, plan.layer.e, plan.layer.block
    return _Buffers(
        code.sums(max(plan.columns, OUT * OUT) * block.vectors, e.lanes),
        narrow_sums(code, e, plan.columns * block.vectors) if layer.run > 1 else [],
        code.scratch("packed", PACK * e.lanes, "uint8"),
        code.scratch("unpacked", layer.packed_steps * layer.unit, e.operand),
        code.scratch("transformed_weights", PATCH * PATCH * plan.weights * (block.blocks if plan.by_row else 1),
                     e.operand),
        code.scratch("transformed_codes", PATCH * PATCH * plan.codes, plan.codes_kind),
        code.scratch("totals", PATCH * PATCH * plan.sums, "int32"),
    )


def _write(code: Code, plan: _Plan, numbers: Numbers) -> None:
    buffers = _buffers(code, plan)
    write_border(code, plan.layer, numbers)
    (_write_by_row if plan.by_row else _write_by_block)(code, plan, numbers, buffers)


def _write_by_row(code: Code, plan: _Plan, numbers: Numbers, buffers: _Buffers) -> None:
    blocks = plan.layer.block.blocks
    shared = plan.layer.shared
    with code.loop("block", blocks, shared) as block:
        _write_weights(code, plan, numbers, buffers, block)
    with code.loop("tile_row", plan.down, shared) as row:
        with code.loop("tile_column", plan.across) as column:
            _write_codes(code, plan, buffers, row, column)
        with code.loop("block", blocks) as block:
            _write_totals(code, plan, buffers, block)
            with code.loop("tile_column", plan.across) as column:
                _write_tile(code, plan, numbers, buffers, block, row, column)


def _write_by_block(code: Code, plan: _Plan, numbers: Numbers, buffers: _Buffers) -> None:
    shared = plan.layer.shared
    with code.loop("tile_row", plan.down, shared) as row, code.loop("tile_column", plan.across) as column:
        _write_codes(code, plan, buffers, row, column)
    with code.loop("block", plan.layer.block.blocks, shared) as block:
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
    kind, chunk = f"{plan.codes_kind}x{plan.chunk}", plan.chunk
    with code.loop("channels", source.pixel // chunk) as i:
        corner = source.at(-window.padding[0], -window.padding[1]) + y * source.row + x * source.pixel + i * chunk
        grid = [
            [e.cast(kind, e.load(code["input"], corner + (r * source.row + s * source.pixel), chunk))
             for s in range(PATCH)] for r in range(PATCH)
        ]
        for number in range(PATCH * PATCH):
            transformed = combine(CODES, grid, *divmod(number, PATCH))
            if plan.shift is not None and (layer.e.signed_input or _is_shifted(*divmod(number, PATCH))):
                transformed = transformed + e.splat(e.number("uint8", plan.shift), chunk)
            place = number * plan.codes + tile * source.pixel + i * chunk
            code.store(buffers.codes, place, transformed, chunk)


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

        def operands(indices: Sequence[Index], k: Expr = k, first: Expr = first) -> list[Operands]:
            group, unit = indices[0], plan.layer.unit
            codes = k * plan.codes + first * plan.layer.source.pixel + group * e.group
            weights = plan.block(block) + k * plan.weights + group * (cut_block.vectors * unit)
            return [(buffers.codes, codes + tile * plan.layer.source.pixel, buffers.weights, weights + vector * unit)
                    for _, tile, vector in sums]

        write_reduction(code, e, [total for total, _, _ in sums], buffers.narrow, [("group", cut_block.groups)],
                        plan.layer.run, operands)
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
        total, channel = combine(SUMS, grid, *divmod(pixel, OUT)), layer.channel(block, i)
        if plan.shift is None:
            total = e.shift_right(total, 2) + e.load(code["numbers"], numbers.bias + channel)
        else:
            total = e.shift_right(
                total + e.load(code["numbers"], numbers.bias + pixel * layer.channels + channel), 2)
        code.store(buffers.sums[i], 0, total, e.lanes)
    y, x = last_fits(code, row, OUT, layer.height), last_fits(code, column, OUT, layer.width)
    write_outputs(code, layer, numbers, Sums(buffers.sums, buffers.packed, block, y, x))
