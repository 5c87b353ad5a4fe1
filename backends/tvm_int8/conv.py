"""Convolutions and linear layers, dense and grouped: sums of dot products in registers, one requantization, one store.

A tile of output pixels times vectors of output channels is accumulated over all taps and inputs; nothing but the final
codes goes back to memory. The last tile of a row or column is moved back so that it ends with the map: it computes some
pixels twice, and no pixel needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from backends.fixed_point.program import Conv, Program
from backends.tvm_int8.expressions import PACK, Expressions
from backends.tvm_int8.kernel import Call, fill_border, function, indent
from backends.tvm_int8.layout import NARROW, PIXEL, Place
from backends.tvm_int8.parameters import Parameters
from backends.tvm_int8.rescaling import Vectors, add_rescale
from backends.tvm_int8.tile import Tile, choose_tile
from backends.tvm_int8.weights import Block, arrange, cut, fields, group_size, lane_order, pack, stored_bits

SMALL = 24 * 1024  # bytes of weights that leave room in the first cache
CODES_OFFSET = 128  # of instructions that multiply signed by signed bytes


@dataclass(frozen=True)
class Layer:
    """What the template is filled with."""

    step: Conv
    source: Place
    target: Place | None
    residual: Place | None
    e: Expressions
    tile: Tile
    block: Block

    @property
    def height(self) -> int:
        return self.target.height if self.target is not None else 1

    @property
    def width(self) -> int:
        return self.target.width if self.target is not None else 1

    @property
    def channels(self) -> int:
        """Output channels in whole blocks."""
        return self.block.blocks * self.block.vectors * self.e.lanes

    @property
    def bits(self) -> int:
        return stored_bits(self.step.weights.bits)

    @property
    def unpacked(self) -> bool:
        """The inner loop cannot read the weights as they are stored."""
        return self.bits < 8 or self.e.operand != "int8"

    @property
    def widened(self) -> bool:
        """Codes are widened before the inner loop."""
        return self.e.operand != "int8"

    @property
    def widened_rows(self) -> int:
        """Rows of the input, border included, that are widened at a time: those of a tile, or all."""
        window = self.step.window
        if not self.rows_first:
            return self.source.rows
        return (self.tile.rows - 1) * window.stride[0] + (window.kernel[0] - 1) * window.dilation[0] + 1

    @property
    def widened_codes(self) -> int:
        """Codes of those rows, in whole vectors, and what a group that begins in the last one reads behind it."""
        chunk = self.chunk
        return -(-self.widened_rows * self.source.row // chunk) * chunk + chunk

    @property
    def chunk(self) -> int:
        """Codes that are widened at once: what divides a row, or what may be read behind it."""
        return min(max(self.source.pixel, NARROW), PIXEL)

    @property
    def unit(self) -> int:
        """Weights of one vector."""
        return self.e.lanes * self.e.group

    @property
    def packed_steps(self) -> int:
        """Vectors of weights of one block in the scratch: whole groups of packed ones."""
        group = group_size(self.bits)
        return -(-self.steps // group) * group

    @property
    def rows_first(self) -> bool:
        """All weights stay in the first cache: all channels of a row of tiles are computed before the next row."""
        return self.block.blocks * self.packed_steps * self.unit * self.e.operand_bytes <= SMALL

    @property
    def steps(self) -> int:
        """Vectors of weights of one block."""
        rows, columns = self.step.window.kernel
        return rows * columns * self.block.groups * self.block.vectors


def conv_call(step: Conv, program: Program, places: list[Place], e: Expressions) -> Call:
    """The call of a convolution, of a linear layer, or of the layer that gives the logits (padded to whole vectors)."""
    source = places[step.inputs[0]]
    target = None if step.output is None else places[step.output]
    residual = places[step.inputs[1]] if step.residual else None
    name = kernel_name(step)
    if source.pixel == 1:
        step = _folded(step)
    taps = step.window.kernel[0] * step.window.kernel[1]
    filters = step.weights.codes.shape[0]
    tile = choose_tile(
        target.height if target else 1, target.width if target else 1, -(-filters // e.lanes),
        lambda vectors: taps * cut(step, source.pixel, e, vectors).groups, e,
    )
    layer = Layer(step, source, target, residual, e, tile, cut(step, source.pixel, e, tile.vectors))
    return layer_call(name, layer, program, _body)


def _folded(step: Conv) -> Conv:
    """A layer of one channel whose pixels lie side by side: the columns of its kernel are its channels."""
    codes = step.weights.codes.transpose(0, 1, 3, 2)
    window = replace(step.window, kernel=(step.window.kernel[0], 1))
    return replace(step, weights=replace(step.weights, codes=codes), window=window)


def layer_call(
    name: str, layer: Layer, program: Program, write: Callable[[Layer, Parameters, Program], str]
) -> Call:
    """The call of a layer whose kernel `write` writes."""
    step, source, target, residual = layer.step, layer.source, layer.target, layer.residual
    weights, numbers = layer_weights(layer), Parameters()
    body = write(layer, numbers, program)
    shape, kind = ((target.size,), "uint8") if target is not None else ((layer.channels,), "float32")
    arguments = [("X", (source.size,), "uint8")]
    if residual is not None:
        arguments.append(("R", (residual.size,), "uint8"))
    arguments += [("W", weights.shape, "int8"), ("P", numbers.array.shape, "int32"), ("Y", shape, kind)]
    text = function(arguments, body)
    return Call(name, text, step.inputs, (weights, numbers.array), shape, kind)


def kernel_name(step: Conv) -> str:
    """What reports call it."""
    if step.rescale is None:
        return "logits"
    return f"conv{step.window.kernel[0]}x{step.window.kernel[1]}"


def layer_weights(layer: Layer) -> np.ndarray:
    """The constant `W`, int8, flat."""
    vectors = arrange(layer.step, layer.block, layer.e)
    if layer.bits == 8:
        return vectors.reshape(-1)
    offsets = _byte_offsets(layer).astype(np.int16)
    offsets = np.tile(offsets, (1, layer.steps // layer.block.vectors, 1))
    return pack((vectors + offsets).astype(np.uint8), layer.bits).reshape(-1)


def _byte_offsets(layer: Layer) -> np.ndarray:
    """What was added to each byte of a block's vectors, [blocks, vectors, unit]."""
    offsets = np.zeros(layer.channels, np.uint8)
    offsets[:len(layer.step.weights.offset)] = layer.step.weights.offset
    lanes = offsets.reshape(layer.block.blocks, layer.block.vectors, layer.e.lanes)
    return lane_order(np.repeat(lanes[..., None], layer.e.group, -1), layer.e)


def _body(layer: Layer, numbers: Parameters, program: Program) -> str:
    tile, block, e = layer.tile, layer.block, layer.e
    bias = numbers.add(layer_bias(layer, program), layer.channels)
    sums = [f"A{i}" for i in range(tile.sums)]
    allocations = [f'{name} = T.sblock_alloc_buffer(({e.lanes},), "int32")' for name in sums]
    allocations.append(f'E = T.sblock_alloc_buffer(({PACK * e.lanes},), "uint8")')
    if layer.unpacked:
        size = layer.packed_steps * layer.unit * (layer.block.blocks if layer.rows_first else 1)
        allocations.append(f'S = T.sblock_alloc_buffer(({size},), "{e.operand}")')
    if layer.widened:
        allocations.append(f'Z = T.sblock_alloc_buffer(({layer.widened_codes},), "{e.operand}")')
    border = border_of(layer, numbers, program)
    rows, columns = -(-layer.height // tile.rows), -(-layer.width // tile.columns)
    inner = "\n".join([
        *(f"A{i}[T.Ramp(0, 1, {e.lanes})] = e.load(P, {bias} + (n * {block.vectors} + {i % block.vectors}) * {e.lanes})"
          for i in range(tile.sums)),
        _reduction(layer, numbers),
        epilogue(layer, numbers, program),
    ])
    filling = unpack(layer, numbers) if layer.unpacked else ""
    blocks = f"for n in T.serial({block.blocks}):"
    before, widen = [*allocations, border], _widen(layer) if layer.widened else ""
    if layer.rows_first:
        order = [*([blocks, indent(filling, 1)] if filling else []), f"for v in T.serial({rows}):", indent(widen, 1),
                 indent(blocks, 1)]
    else:
        order = [widen, blocks, indent(filling, 1), f"    for v in T.serial({rows}):"]
    return "\n".join([*before, *order, f"        for u in T.serial({columns}):", indent(inner, 3)])


def border_of(layer: Layer, numbers: Parameters, program: Program) -> str:
    """Statements that fill the output's border."""
    if layer.target is None or not any(layer.target.border):
        return ""
    zero = numbers.splat(program.buffers[layer.step.output].zero_point)
    return fill_border(layer.target, f'T.Cast("uint8", P[{zero}])')


def _y(layer: Layer) -> str:
    """First output row of the tile."""
    return last_fits("v", layer.tile.rows, layer.height)


def _x(layer: Layer) -> str:
    """First output column of the tile."""
    return last_fits("u", layer.tile.columns, layer.width)


def last_fits(index: str, tile: int, whole: int) -> str:
    """Start of tile number `index`; the last one is moved back so that it ends with the whole."""
    return f"{index} * {tile}" if whole % tile == 0 else f"T.min({index} * {tile}, {whole - tile})"


def layer_bias(layer: Layer, program: Program) -> np.ndarray:
    """Sums start where the zero point, and the offset of signed codes, are already taken away."""
    offset = program.buffers[layer.step.inputs[0]].zero_point - (CODES_OFFSET if layer.e.signed_input else 0)
    totals = layer.step.weights.codes.astype(np.int64).sum((1, 2, 3))
    return layer.step.bias.astype(np.int64) - offset * totals


def _reduction(layer: Layer, numbers: Parameters) -> str:
    step, source, tile, block, window = layer.step, layer.source, layer.tile, layer.block, layer.step.window
    top = "0" if layer.widened and layer.rows_first else _first_row(layer)
    left = (source.border[1] - window.padding[1]) * source.pixel
    row, column = window.stride[0] * source.row, window.stride[1] * source.pixel
    start = ""
    if step.groups > 1 and block.starts.any():
        start = f" + P[{numbers.add(block.starts)} + n]"
    corner = (
        f"{top} + {left} + ({_x(layer)}) * {column} + r * {window.dilation[0] * source.row}"
        f" + s * {window.dilation[1] * source.pixel} + q * {layer.e.group}{start}"
    )
    tap = f"((r * {window.kernel[1]} + s) * {block.groups} + q) * {block.vectors}"
    if not layer.unpacked or layer.rows_first:
        tap = f"n * {layer.packed_steps if layer.unpacked else layer.steps} + {tap}"
    codes = "Z" if layer.widened else "X"
    buffer = "S" if layer.unpacked else "W"
    lines = []
    for i in range(tile.sums):
        pixel, vector = divmod(i, block.vectors)
        y, x = divmod(pixel, tile.columns)
        lines.append(
            f"            A{i}[T.Ramp(0, 1, {layer.e.lanes})] = e.dot(e.load(A{i}, 0), "
            f"e.codes({codes}, {corner} + {y * row + x * column}), "
            f"e.weights({buffer}, ({tap} + {vector}) * {layer.unit}))"
        )
    return "\n".join([
        f"for r in T.serial({window.kernel[0]}):",
        f"    for s in T.serial({window.kernel[1]}):",
        f"        for q in T.serial({block.groups}):",
        *lines,
    ])


def _widen(layer: Layer) -> str:
    """Statements that widen codes into `Z`, once for each code instead of once for each product."""
    start, chunk = _first_row(layer) if layer.rows_first else "0", layer.chunk
    return (
        f"for i in T.serial({layer.widened_codes // chunk - 1}):\n"
        f"    Z[T.Ramp(i * {chunk}, 1, {chunk})] = "
        f'T.Cast("{layer.e.operand}x{chunk}", e.load(X, {start} + i * {chunk}, {chunk}))'
    )


def _first_row(layer: Layer) -> str:
    """Offset of the first input row that tile row v reads."""
    window, row = layer.step.window, layer.source.row
    return f"{(layer.source.border[0] - window.padding[0]) * row} + ({_y(layer)}) * {window.stride[0] * row}"


def unpack(layer: Layer, numbers: Parameters, single: bool = False) -> str:
    """Statements that bring block n of the weights into the scratch `S`, which holds one block (`single`) or all."""
    group, unit, bits = group_size(layer.bits), layer.unit, layer.bits
    groups = layer.packed_steps // group
    block = f"n * {layer.packed_steps} + " if layer.rows_first and not single else ""
    offset = None
    if bits < 8:
        offset = numbers.add(np.ascontiguousarray(_byte_offsets(layer)).reshape(-1).view(np.int32))
    lines = [f"for g in T.serial({groups}):"]
    for j in range(group):
        packed = f"(n * {groups} + g) * {group * bits // 8 * unit}"
        vector = f"n * {layer.block.vectors} + (g * {group} + {j}) % {layer.block.vectors}"
        minus = f"e.load(P, {offset} + ({vector}) * {unit // 4}, {unit // 4})" if bits < 8 else None
        lines.append(
            f"    S[T.Ramp(({block}g * {group} + {j}) * {unit}, 1, {unit})] = "
            f"e.unpack(W, {packed}, {fields(bits, j)}, {unit}, {minus})"
        )
    return "\n".join(lines)


def epilogue(layer: Layer, numbers: Parameters, program: Program) -> str:
    """What becomes of the sums `A0`, `A1`, ... of tile (v, u) and block n."""
    return _logits(layer, numbers) if layer.step.rescale is None else _codes(layer, numbers, program)


def _channel(layer: Layer, vector: int) -> str:
    return f"(n * {layer.block.vectors} + {vector}) * {layer.e.lanes}"


def _logits(layer: Layer, numbers: Parameters) -> str:
    """One float32 product a logit."""
    scale = numbers.add(layer.step.logit_scale.astype(np.float32), layer.channels)
    lanes = layer.e.lanes
    return "\n".join(
        f"Y[T.Ramp({_channel(layer, i)}, 1, {lanes})] = e.real(e.load(A{i}, 0)) * "
        f'e.bits("float32x{lanes}", e.load(P, {scale} + {_channel(layer, i)}))'
        for i in range(layer.tile.sums)
    )


def _codes(layer: Layer, numbers: Parameters, program: Program) -> str:
    """Requantization, packing and storing, four vectors at a time."""
    step, e = layer.step, layer.e
    vectors = add_rescale(numbers, step.rescale, layer.channels)
    minus = None
    if layer.residual is not None and program.buffers[step.inputs[1]].zero_point:
        minus = numbers.splat(program.buffers[step.inputs[1]].zero_point)
    clip = None
    if (step.low, step.high) != (0, 255):
        clip = (numbers.splat_byte(step.low), numbers.splat_byte(step.high))
    lines = [
        f"A{i}[T.Ramp(0, 1, {e.lanes})] = {_requantized(layer, vectors, minus, i)}" for i in range(layer.tile.sums)
    ]
    for first in range(0, layer.tile.sums, PACK):
        lines += _store(layer, list(range(first, min(first + PACK, layer.tile.sums))), clip)
    return "\n".join(lines)


def _requantized(layer: Layer, vectors: Vectors, minus: int | None, i: int) -> str:
    values = [f"e.load(A{i}, 0)"]
    if layer.residual is not None:
        place = layer.residual
        value = f"e.widen(e.load(R, {_address(layer, place, i)}))"
        values.append(value if minus is None else f"({value} - e.load(P, {minus}))")
    return vectors.apply(values, _channel(layer, i % layer.block.vectors))


def _address(layer: Layer, place: Place, i: int) -> str:
    """Where vector i of the tile lies in a tensor of the output's shape."""
    return f"{place.at(0, 0) + _relative(layer, place, i)} + ({_y(layer)}) * {place.row} + " \
           f"({_x(layer)}) * {place.pixel} + n * {layer.block.vectors * layer.e.lanes}"


def _relative(layer: Layer, place: Place, i: int) -> int:
    pixel, vector = divmod(i, layer.block.vectors)
    y, x = divmod(pixel, layer.tile.columns)
    return y * place.row + x * place.pixel + vector * layer.e.lanes


def _store(layer: Layer, group: list[int], clip: tuple[int, int] | None) -> list[str]:
    """Pack up to four vectors and store them, in one piece where they are neighbours in memory."""
    lanes, count = layer.e.lanes, len(group)
    packed = f"e.pack([{', '.join(f'e.load(A{i}, 0)' for i in group)}])"
    if clip is not None:
        low, high = (f'e.bits("uint8x{count * lanes}", e.load(P, {offset}, {count * lanes // 4}))' for offset in clip)
        packed = f"e.clip({packed}, {low}, {high})"
    runs = _runs([_relative(layer, layer.target, i) for i in group], lanes)
    if len(runs) == 1:
        return [f"Y[T.Ramp({_address(layer, layer.target, group[0])}, 1, {count * lanes})] = {packed}"]
    return [f"E[T.Ramp(0, 1, {count * lanes})] = {packed}"] + [
        f"Y[T.Ramp({_address(layer, layer.target, group[first])}, 1, {size * lanes})] = "
        f"e.load(E, {first * lanes}, {size * lanes})" for first, size in runs
    ]


def _runs(places: list[int], lanes: int) -> list[tuple[int, int]]:
    """(first, number) of vectors that are neighbours in memory; numbers are powers of two."""
    runs: list[tuple[int, int]] = []
    for position, place in enumerate(places):
        first, size = runs[-1] if runs else (0, 0)
        if runs and place - places[first] == size * lanes:
            runs[-1] = (first, size + 1)
        else:
            runs.append((position, 1))
    return [piece for first, size in runs for piece in ([(first, 2), (first + 2, 1)] if size == 3 else [(first, size)])]
