"""3 x 3 layers where products are of int16: Winograd's F(2 x 2, 3 x 3), exact in integers, 16 products for 36.

Four outputs of a 2 x 2 tile are `A.T @ ((G @ g @ G.T) * (B.T @ d @ B)) @ A` with 3 x 3 weights g and 4 x 4 codes d.
B and A hold 0, 1 and -1; G holds halves, so it is doubled here and the result is four times the sum: a shift brings it
back exactly. Transformed codes stay below 1024 and transformed weights below 1153, which int16 holds
and bytes would not: kernels that multiply bytes do not use it.

Codes are transformed to `V`, weights to `U`; sums of products go to `M`, whose transform is requantized like any other
sums. [S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin, S. Gray, arXiv:1509.09308]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.fixed_point.program import Conv, Program
from backends.tvm_int8.conv import (
    Layer,
    border_of,
    epilogue,
    kernel_name,
    last_fits,
    layer_bias,
    layer_call,
    unpack,
)
from backends.tvm_int8.expressions import PACK, Expressions
from backends.tvm_int8.kernel import Call, indent
from backends.tvm_int8.layout import Place
from backends.tvm_int8.parameters import Parameters
from backends.tvm_int8.tile import Tile, choose_tile
from backends.tvm_int8.weights import cut

OUT, PATCH, TAPS = 2, 4, 3  # sides of output tile, input patch and weights
CODES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B.T
WEIGHTS = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))  # 2 G
SUMS = ((1, 1, 1, 0), (0, 1, -1, -1))  # A.T
LARGEST_CODE = 4 * 255  # after the transform
SECOND_CACHE = 640 * 1024  # bytes of transformed weights that are kept for the whole layer
MOST_VECTORS = 2  # of a block: four outputs each are requantized at once, and all that is code
CHANNELS = 16  # transformed at once
LINE = 32  # int16 of a cache line: planes are that much apart, or powers of two would all fall into the same sets


def is_winograd(step: Conv, program: Program, places: list[Place], e: Expressions) -> bool:
    """A dense 3 x 3 layer of stride 1 on a map, whose transformed sums fit int32 for any codes."""
    window = step.window
    if not (e.winograd and window.kernel == (TAPS, TAPS) and window.stride == window.dilation == (1, 1)
            and step.groups == 1 and step.rescale is not None):
        return False
    target = places[step.output]
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

    @property
    def index(self) -> str:
        """Number of tile (v, u)."""
        return "u" if self.by_row else f"(v * {self.across} + u)"

    @property
    def weights(self) -> int:
        """Elements from one of the 16 transformed weights of a block to the next."""
        return self.layer.block.groups * self.layer.block.vectors * self.layer.unit + LINE

    @property
    def block(self) -> str:
        """Offset of the transformed weights of block n."""
        return f"n * {PATCH * PATCH * self.weights}" if self.by_row else "0"

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


def winograd_call(step: Conv, program: Program, places: list[Place], e: Expressions) -> Call:
    """The call of such a layer."""
    source, target = places[step.inputs[0]], places[step.output]
    filters, channels = step.weights.codes.shape[0], step.weights.codes.shape[3]
    residual = places[step.inputs[1]] if step.residual else None
    by_row = PATCH * PATCH * target.pixel * channels * e.operand_bytes <= SECOND_CACHE
    tiles = -(-target.width // OUT) * (1 if by_row else -(-target.height // OUT))
    products = choose_tile(1, tiles, -(-filters // e.lanes), lambda vectors: -(-channels // e.group), e,
                           MOST_VECTORS)
    layer = Layer(step, source, target, residual, e, Tile(OUT, OUT, products.vectors),
                  cut(step, source.pixel, e, products.vectors))
    plan = _Plan(layer, by_row, products.columns)
    return layer_call(kernel_name(step), layer, program, lambda layer, numbers, program: _body(plan, numbers, program))


def _body(plan: _Plan, numbers: Parameters, program: Program) -> str:
    layer, e, block = plan.layer, plan.layer.e, plan.layer.block
    bias = numbers.add(layer_bias(layer, program), layer.channels)
    sizes = {
        "S": layer.packed_steps * layer.unit,
        "U": PATCH * PATCH * plan.weights * (block.blocks if plan.by_row else 1),
        "V": PATCH * PATCH * plan.codes,
    }
    before = [
        *(f'A{i} = T.sblock_alloc_buffer(({e.lanes},), "int32")'
          for i in range(max(plan.columns, OUT * OUT) * block.vectors)),
        f'E = T.sblock_alloc_buffer(({PACK * e.lanes},), "uint8")',
        *(f'{name} = T.sblock_alloc_buffer(({size},), "{e.operand}")' for name, size in sizes.items()),
        f'M = T.sblock_alloc_buffer(({PATCH * PATCH * plan.sums},), "int32")',
        border_of(layer, numbers, program),
    ]
    blocks, rows, tiles = (
        f"for {name} in T.serial({count}):"
        for name, count in (("n", block.blocks), ("v", plan.down), ("u", plan.across))
    )
    prepare = f"{unpack(layer, numbers, single=True)}\n{_weights(plan)}"
    finish = f"{_sums(plan, bias)}\n{epilogue(layer, numbers, program)}"
    if plan.by_row:
        order = [(0, blocks), (1, prepare), (0, rows), (1, tiles), (2, _codes(plan)),
                 (1, blocks), (2, _products(plan)), (2, tiles), (3, finish)]
    else:
        order = [(0, rows), (1, tiles), (2, _codes(plan)), (0, blocks), (1, prepare),
                 (1, _products(plan)), (1, rows), (2, tiles), (3, finish)]
    return "\n".join([*before, *(indent(text, levels) for levels, text in order)])


def _grid(cells: list[list[str]]) -> str:
    """A nested list, as text of the kernel."""
    return "[" + ", ".join(f"[{', '.join(row)}]" for row in cells) + "]"


def _weights(plan: _Plan) -> str:
    """S -> U: [taps][groups * vectors] -> [16][groups * vectors]."""
    count, unit = plan.layer.block.groups * plan.layer.block.vectors, plan.layer.unit
    grid = _grid([
        [f"e.load(S, ({r * TAPS + s} * {count} + i) * {unit}, {unit})" for s in range(TAPS)] for r in range(TAPS)
    ])
    return "\n".join([
        f"for i in T.serial({count}):",
        *(f"    U[T.Ramp({plan.block} + {place * plan.weights} + i * {unit}, 1, {unit})] = "
          f"e.combine({WEIGHTS}, {grid}, {place // PATCH}, {place % PATCH})" for place in range(PATCH * PATCH)),
    ])


def _codes(plan: _Plan) -> str:
    """X -> V for tile (v, u): [16][tiles][channels]."""
    layer, source, window = plan.layer, plan.layer.source, plan.layer.step.window
    y, x = last_fits("v", OUT, layer.height), last_fits("u", OUT, layer.width)
    corner = (
        f"{source.at(-window.padding[0], -window.padding[1])} + ({y}) * {source.row} + ({x}) * {source.pixel}"
        f" + i * {CHANNELS}"
    )
    grid = _grid([
        [f'T.Cast("int16x{CHANNELS}", e.load(X, {corner} + {r * source.row + s * source.pixel}, {CHANNELS}))'
         for s in range(PATCH)] for r in range(PATCH)
    ])
    place = f"{plan.index} * {source.pixel} + i * {CHANNELS}"
    return "\n".join([
        f"for i in T.serial({source.pixel // CHANNELS}):",
        *(f"    V[T.Ramp({number * plan.codes} + {place}, 1, {CHANNELS})] = "
          f"e.combine({CODES}, {grid}, {number // PATCH}, {number % PATCH})" for number in range(PATCH * PATCH)),
    ])


def _products(plan: _Plan) -> str:
    """U, V -> M: [16][tiles][channels of the block], sums over the input channels."""
    e, block = plan.layer.e, plan.layer.block
    first, lanes = last_fits("g", plan.columns, plan.tiles), f"T.Ramp(0, 1, {e.lanes})"
    zeros, dots, stores = [], [], []
    for i in range(plan.columns * block.vectors):
        tile, vector = divmod(i, block.vectors)
        codes = f"k * {plan.codes} + ({first} + {tile}) * {plan.layer.source.pixel} + q * {e.group}"
        weights = f"{plan.block} + k * {plan.weights} + (q * {block.vectors} + {vector}) * {plan.layer.unit}"
        place = f"k * {plan.sums} + ({first} + {tile}) * {plan.width} + {vector * e.lanes}"
        zeros.append(f"        A{i}[{lanes}] = e.splat(T.int32(0))")
        dots.append(f"            A{i}[{lanes}] = e.dot(e.load(A{i}, 0), e.codes(V, {codes}), e.weights(U, {weights}))")
        stores.append(f"        M[T.Ramp({place}, 1, {e.lanes})] = e.load(A{i}, 0)")
    return "\n".join([
        f"for k in T.serial({PATCH * PATCH}):",
        f"    for g in T.serial({-(-plan.tiles // plan.columns)}):",
        *zeros, f"        for q in T.serial({block.groups}):", *dots, *stores,
    ])


def _sums(plan: _Plan, bias: int) -> str:
    """M -> the sums of tile (v, u), in the order of requantization."""
    e, block = plan.layer.e, plan.layer.block
    lines = []
    for i in range(plan.layer.tile.sums):
        pixel, vector = divmod(i, block.vectors)
        grid = _grid([
            [f"e.load(M, {(r * PATCH + s) * plan.sums} + {plan.index} * {plan.width} + {vector * e.lanes})"
             for s in range(PATCH)] for r in range(PATCH)
        ])
        total = f"e.combine({SUMS}, {grid}, {pixel // OUT}, {pixel % OUT})"
        lines.append(
            f"A{i}[T.Ramp(0, 1, {e.lanes})] = T.shift_right({total}, e.splat(T.int32(2))) + "
            f"e.load(P, {bias} + (n * {block.vectors} + {vector}) * {e.lanes})"
        )
    return "\n".join(lines)
