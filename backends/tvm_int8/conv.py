"""Convolutions and linear layers, dense and grouped: sums of dot products in registers, one requantization, one store.

A tile of output pixels times vectors of output channels is accumulated over all taps and inputs; nothing but the final
codes goes back to memory. The last tile of a row or column is moved back so that it ends with the map: it computes some
pixels twice, and no pixel needs a case of its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from backends.fixed_point.program import Conv, Program
from backends.tvm_int8.expressions import QUAD, Expressions
from backends.tvm_int8.kernel import Call, fill_border, function, indent
from backends.tvm_int8.layout import Place
from backends.tvm_int8.parameters import Parameters
from backends.tvm_int8.rescaling import Vectors, add_rescale
from backends.tvm_int8.tile import Tile, choose_tile
from backends.tvm_int8.weights import Block, arrange, cut, fields, group_size, lane_order, pack, stored_bits

CODES_OFFSET = 128  # of instructions that multiply signed by signed bytes
PACK = 4  # vectors of sums that one store takes


@dataclass(frozen=True)
class _Layer:
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
    def unit(self) -> int:
        """Weights of one vector."""
        return self.e.lanes * QUAD

    @property
    def steps(self) -> int:
        """Vectors of weights of one block."""
        rows, columns = self.step.window.kernel
        return rows * columns * self.block.quads * self.block.vectors


def conv_call(step: Conv, program: Program, places: list[Place], e: Expressions) -> Call:
    """The call of a convolution, of a linear layer, or of the layer that gives the logits (padded to whole vectors)."""
    source = places[step.inputs[0]]
    target = None if step.output is None else places[step.output]
    residual = places[step.inputs[1]] if step.residual else None
    taps = step.window.kernel[0] * step.window.kernel[1]
    filters = step.weights.codes.shape[0]
    tile = choose_tile(
        target.height if target else 1, target.width if target else 1, -(-filters // e.lanes),
        lambda vectors: taps * cut(step, source.pixel, e, vectors).quads, e,
    )
    layer = _Layer(step, source, target, residual, e, tile, cut(step, source.pixel, e, tile.vectors))
    weights = _weights(layer)
    numbers = Parameters()
    body = _body(layer, numbers, program)
    parameters = numbers.array
    shape, kind = ((target.size,), "uint8") if target is not None else ((layer.channels,), "float32")
    arguments = [("X", (source.size,), "uint8")]
    if residual is not None:
        arguments.append(("R", (residual.size,), "uint8"))
    arguments += [("W", weights.shape, "int8"), ("P", parameters.shape, "int32"), ("Y", shape, kind)]
    return Call(_name(step), function(arguments, body), step.inputs, (weights, parameters), shape, kind)


def _name(step: Conv) -> str:
    if step.rescale is None:
        return "logits"
    return f"conv{step.window.kernel[0]}x{step.window.kernel[1]}"


def _weights(layer: _Layer) -> np.ndarray:
    """The constant `W`, int8, flat."""
    vectors = arrange(layer.step, layer.block, layer.e)
    if layer.bits == 8:
        return vectors.reshape(-1)
    offsets = _byte_offsets(layer).astype(np.int16)
    offsets = np.tile(offsets, (1, layer.steps // layer.block.vectors, 1))
    return pack((vectors + offsets).astype(np.uint8), layer.bits).reshape(-1)


def _byte_offsets(layer: _Layer) -> np.ndarray:
    """What was added to each byte of a block's vectors, [blocks, vectors, unit]."""
    offsets = np.zeros(layer.channels, np.uint8)
    offsets[:len(layer.step.weights.offset)] = layer.step.weights.offset
    lanes = offsets.reshape(layer.block.blocks, layer.block.vectors, layer.e.lanes)
    return lane_order(np.repeat(lanes[..., None], QUAD, -1), layer.e)


def _body(layer: _Layer, numbers: Parameters, program: Program) -> str:
    step, tile, block, e = layer.step, layer.tile, layer.block, layer.e
    bias = numbers.add(_bias(layer, program), layer.channels)
    sums = [f"A{i}" for i in range(tile.sums)]
    allocations = [f'{name} = T.sblock_alloc_buffer(({e.lanes},), "int32")' for name in sums]
    allocations.append(f'E = T.sblock_alloc_buffer(({PACK * e.lanes},), "uint8")')
    if layer.unpacked:
        size = -(-layer.steps // group_size(layer.bits)) * group_size(layer.bits) * layer.unit
        allocations.append(f'S = T.sblock_alloc_buffer(({size},), "{e.operand}")')
    border = ""
    if layer.target is not None and any(layer.target.border):
        zero = numbers.splat(program.buffers[step.output].zero_point)
        border = fill_border(layer.target, f'T.Cast("uint8", P[{zero}])')
    rows, columns = -(-layer.height // tile.rows), -(-layer.width // tile.columns)
    inner = "\n".join([
        *(f"A{i}[T.Ramp(0, 1, {e.lanes})] = e.load(P, {bias} + (n * {block.vectors} + {i % block.vectors}) * {e.lanes})"
          for i in range(tile.sums)),
        _reduction(layer, numbers),
        _epilogue(layer, numbers, program),
    ])
    return "\n".join([
        *allocations, border,
        f"for n in T.serial({block.blocks}):",
        indent(_unpack(layer, numbers), 1) if layer.unpacked else "",
        f"    for v in T.serial({rows}):",
        f"        for u in T.serial({columns}):",
        indent(inner, 3),
    ])


def _y(layer: _Layer) -> str:
    """First output row of the tile."""
    return _last_fits("v", layer.tile.rows, layer.height)


def _x(layer: _Layer) -> str:
    """First output column of the tile."""
    return _last_fits("u", layer.tile.columns, layer.width)


def _last_fits(index: str, tile: int, whole: int) -> str:
    return f"{index} * {tile}" if whole % tile == 0 else f"T.min({index} * {tile}, {whole - tile})"


def _bias(layer: _Layer, program: Program) -> np.ndarray:
    """Sums start where the zero point, and the offset of signed codes, are already taken away."""
    offset = program.buffers[layer.step.inputs[0]].zero_point - (CODES_OFFSET if layer.e.signed_input else 0)
    totals = layer.step.weights.codes.astype(np.int64).sum((1, 2, 3))
    return layer.step.bias.astype(np.int64) - offset * totals


def _reduction(layer: _Layer, numbers: Parameters) -> str:
    step, source, tile, block, window = layer.step, layer.source, layer.tile, layer.block, layer.step.window
    first = source.at(-window.padding[0], -window.padding[1])
    row, column = window.stride[0] * source.row, window.stride[1] * source.pixel
    start = ""
    if step.groups > 1 and block.starts.any():
        start = f" + P[{numbers.add(block.starts)} + n]"
    corner = (
        f"{first} + ({_y(layer)}) * {row} + ({_x(layer)}) * {column} + r * {window.dilation[0] * source.row}"
        f" + s * {window.dilation[1] * source.pixel} + q * {QUAD}{start}"
    )
    tap = f"((r * {window.kernel[1]} + s) * {block.quads} + q) * {block.vectors}"
    if not layer.unpacked:
        tap = f"n * {layer.steps} + {tap}"
    buffer = "S" if layer.unpacked else "W"
    lines = []
    for i in range(tile.sums):
        pixel, vector = divmod(i, block.vectors)
        y, x = divmod(pixel, tile.columns)
        lines.append(
            f"            A{i}[T.Ramp(0, 1, {layer.e.lanes})] = e.dot(e.load(A{i}, 0), "
            f"e.quad(X, {corner} + {y * row + x * column}), "
            f"e.weights({buffer}, ({tap} + {vector}) * {layer.unit}))"
        )
    return "\n".join([
        f"for r in T.serial({window.kernel[0]}):",
        f"    for s in T.serial({window.kernel[1]}):",
        f"        for q in T.serial({block.quads}):",
        *lines,
    ])


def _unpack(layer: _Layer, numbers: Parameters) -> str:
    """Statements that bring one block of weights into the scratch `S`, in halves where operands are twice as wide."""
    group, unit, bits = group_size(layer.bits), layer.unit, layer.bits
    groups = -(-layer.steps // group)
    part = unit if layer.e.operand == "int8" else unit // 2
    offset = None
    if bits < 8:
        offset = numbers.add(np.ascontiguousarray(_byte_offsets(layer)).reshape(-1).view(np.int32))
    lines = [f"for g in T.serial({groups}):"]
    for j in range(group):
        for start in range(0, unit, part):
            packed = f"(n * {groups} + g) * {group * bits // 8 * unit} + {start}"
            vector = f"n * {layer.block.vectors} + (g * {group} + {j}) % {layer.block.vectors}"
            minus = f"e.load(P, {offset} + (({vector}) * {unit} + {start}) // 4, {part // 4})" if bits < 8 else None
            lines.append(
                f"    S[T.Ramp((g * {group} + {j}) * {unit} + {start}, 1, {part})] = "
                f"e.unpack(W, {packed}, {fields(bits, j)}, {unit}, {part}, {minus})"
            )
    return "\n".join(lines)


def _epilogue(layer: _Layer, numbers: Parameters, program: Program) -> str:
    return _logits(layer, numbers) if layer.step.rescale is None else _codes(layer, numbers, program)


def _channel(layer: _Layer, vector: int) -> str:
    return f"(n * {layer.block.vectors} + {vector}) * {layer.e.lanes}"


def _logits(layer: _Layer, numbers: Parameters) -> str:
    """One float32 product a logit."""
    scale = numbers.add(layer.step.logit_scale.astype(np.float32), layer.channels)
    lanes = layer.e.lanes
    return "\n".join(
        f"Y[T.Ramp({_channel(layer, i)}, 1, {lanes})] = e.real(e.load(A{i}, 0)) * "
        f'e.bits("float32x{lanes}", e.load(P, {scale} + {_channel(layer, i)}))'
        for i in range(layer.tile.sums)
    )


def _codes(layer: _Layer, numbers: Parameters, program: Program) -> str:
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


def _requantized(layer: _Layer, vectors: Vectors, minus: int | None, i: int) -> str:
    values = [f"e.load(A{i}, 0)"]
    if layer.residual is not None:
        place = layer.residual
        value = f"e.widen(e.load(R, {_address(layer, place, i)}))"
        values.append(value if minus is None else f"({value} - e.load(P, {minus}))")
    return vectors.apply(values, _channel(layer, i % layer.block.vectors))


def _address(layer: _Layer, place: Place, i: int) -> str:
    """Where vector i of the tile lies in a tensor of the output's shape."""
    return f"{place.at(0, 0) + _relative(layer, place, i)} + ({_y(layer)}) * {place.row} + " \
           f"({_x(layer)}) * {place.pixel} + n * {layer.block.vectors * layer.e.lanes}"


def _relative(layer: _Layer, place: Place, i: int) -> int:
    pixel, vector = divmod(i, layer.block.vectors)
    y, x = divmod(pixel, layer.tile.columns)
    return y * place.row + x * place.pixel + vector * layer.e.lanes


def _store(layer: _Layer, group: list[int], clip: tuple[int, int] | None) -> list[str]:
    """Pack up to four vectors and store them, in one piece where they are neighbours in memory."""
    lanes, count = layer.e.lanes, len(group)
    packed = f"e.pack([{', '.join(f'e.load(A{i}, 0)' for i in group)}])"
    if clip is not None:
        low, high = (f'e.bits("uint8x{count * lanes}", e.load(P, {offset}, {count * lanes // 4}))' for offset in clip)
        packed = f"e.clip({packed}, {low}, {high})"
    places = [_relative(layer, layer.target, i) for i in group]
    if all(b - a == lanes for a, b in itertools.pairwise(places)):
        return [f"Y[T.Ramp({_address(layer, layer.target, group[0])}, 1, {count * lanes})] = {packed}"]
    lines = [f"E[T.Ramp(0, 1, {count * lanes})] = {packed}"]
    lines += [
        f"Y[T.Ramp({_address(layer, layer.target, i)}, 1, {lanes})] = e.load(E, {position * lanes})"
        for position, i in enumerate(group)
    ]
    return lines
