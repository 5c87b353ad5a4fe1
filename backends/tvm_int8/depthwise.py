"""Depthwise convolutions on x86: up to four neighbouring pixels of a row are interleaved into one dot product.

Byte unpacks put the codes of four taps side by side for each channel, which is what `vpdpbusd` sums (AVX2 sums them in
two pairs). Each input row is interleaved once for all output rows of the tile that it enters. The unpacks leave
channels in the order in which the saturating packs take them back, so nothing is permuted; the layer's numbers are
stored in that order instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.fixed_point.program import Conv, Program
from backends.tvm_int8.expressions import PACK, Expressions
from backends.tvm_int8.kernel import Call, fill_border, function, indent
from backends.tvm_int8.layout import Place
from backends.tvm_int8.parameters import Parameters
from backends.tvm_int8.rescaling import add_rescale

TAPS = 4  # of one dot product
UNIT = 16  # channels of 128 bits


def is_depthwise(step: Conv, e: Expressions) -> bool:
    """One filter a channel, no residual, and an instruction set that interleaves."""
    filters = step.weights.codes.shape[0]
    return bool(e.widths) and step.groups == filters > 1 and step.weights.codes.shape[3] == 1 and not step.residual \
        and step.rescale is not None


@dataclass(frozen=True)
class _Layer:
    """What the template is filled with; `chunk` channels at a time, the last chunk moved back to end with the pixel."""

    step: Conv
    source: Place
    target: Place
    e: Expressions
    rows: int

    @property
    def w(self) -> str:
        """What the template calls the vocabulary, with vectors of this layer's width."""
        return f"e.of({self.e.lanes})"

    @property
    def chunk(self) -> int:
        return PACK * self.e.lanes

    @property
    def chunks(self) -> int:
        return -(-self.target.pixel // self.chunk)

    @property
    def quads(self) -> int:
        """Dot products of one row of the window."""
        return -(-self.step.window.kernel[1] // TAPS)

    @property
    def first(self) -> str:
        """First channel of chunk n."""
        last = self.target.pixel - self.chunk
        return f"n * {self.chunk}" if last % self.chunk == 0 else f"T.min(n * {self.chunk}, {last})"

    @property
    def order(self) -> np.ndarray:
        """Channels in the order of chunks, vectors and lanes."""
        starts = np.minimum(np.arange(self.chunks) * self.chunk, self.target.pixel - self.chunk)
        units = np.arange(self.chunk).reshape(-1, PACK, UNIT // PACK)
        within = units.transpose(1, 0, 2).reshape(-1)
        return (starts[:, None] + within).reshape(-1)


def depthwise_call(step: Conv, program: Program, places: list[Place], e: Expressions) -> Call:
    """The call of a depthwise convolution."""
    source, target = places[step.inputs[0]], places[step.output]
    lanes = next(lanes for lanes in e.widths if PACK * lanes <= target.pixel)
    layer = _Layer(step, source, target, e.of(lanes), min(e.depthwise_rows, target.height))
    weights, numbers = _weights(layer), Parameters()
    body = _body(layer, numbers, program)
    arguments = [
        ("X", (source.size,), "uint8"), ("W", weights.shape, e.taps), ("P", numbers.array.shape, "int32"),
        ("Y", (target.size,), "uint8"),
    ]
    return Call("depthwise", function(arguments, body), step.inputs, (weights, numbers.array), (target.size,))


def _weights(layer: _Layer) -> np.ndarray:
    """[chunks][R][quads][vectors][lanes * 4], taps of one channel side by side; flat."""
    codes = layer.step.weights.codes[..., 0]
    filters, rows, columns = codes.shape
    padded = np.zeros((layer.target.pixel, rows, layer.quads * TAPS), codes.dtype)
    padded[:filters, :, :columns] = codes
    taps = padded[layer.order].reshape(layer.chunks, PACK, layer.e.lanes, rows, layer.quads, TAPS)
    ordered = taps.transpose(0, 3, 4, 1, 2, 5)
    if layer.e.taps == "int16":  # the even taps of all lanes, then the odd ones
        ordered = np.stack([ordered[..., 0::2], ordered[..., 1::2]], -3)
    return np.ascontiguousarray(ordered).astype(layer.e.taps).reshape(-1)


def _body(layer: _Layer, numbers: Parameters, program: Program) -> str:
    step, target, lanes = layer.step, layer.target, layer.e.lanes
    sums = [f"A{i}" for i in range(layer.rows * PACK)]
    zero = numbers.splat(program.buffers[step.output].zero_point)
    bias = numbers.add(_bias(layer, program)[layer.order])
    y = "v" if layer.rows == 1 else f"T.min(v * {layer.rows}, {target.height - layer.rows})"
    inner = [
        f"{name}[T.Ramp(0, 1, {lanes})] = {layer.w}.load(P, {bias} + (n * {PACK} + {i % PACK}) * {lanes})"
        for i, name in enumerate(sums)
    ]
    return "\n".join([
        *(f'{name} = T.sblock_alloc_buffer(({lanes},), "int32")' for name in sums),
        fill_border(target, f'T.Cast("uint8", P[{zero}])'),
        f"for n in T.serial({layer.chunks}):",
        f"    for v in T.serial({-(-target.height // layer.rows)}):",
        f"        for x in T.serial({target.width}):",
        indent("\n".join([*inner, *_dots(layer, y), *_stores(layer, numbers, y)]), 3),
    ])


def _bias(layer: _Layer, program: Program) -> np.ndarray:
    step = layer.step
    bias = np.zeros(layer.target.pixel, np.int64)
    zero = program.buffers[step.inputs[0]].zero_point
    bias[:len(step.bias)] = step.bias - zero * step.weights.codes.astype(np.int64).sum((1, 2, 3))
    return bias


def _dots(layer: _Layer, y: str) -> list[str]:
    """Each input row once: interleaved, and summed into every output row that it is a tap of."""
    window, lanes = layer.step.window, layer.e.lanes
    taps, columns = window.kernel
    lines = []
    for row in range((layer.rows - 1) * window.stride[0] + (taps - 1) * window.dilation[0] + 1):
        users = [
            (out, tap) for out in range(layer.rows) for tap in range(taps)
            if out * window.stride[0] + tap * window.dilation[0] == row
        ]
        for quad in range(layer.quads if users else 0):
            pixels = ", ".join(
                _pixel(layer, y, row, quad * TAPS + i) if quad * TAPS + i < columns
                else f"{layer.w}.splat(T.uint8(0), {layer.chunk})" for i in range(TAPS)
            )
            for out, tap in users:
                for vector in range(PACK):
                    name = f"A{out * PACK + vector}"
                    place = ((tap * layer.quads + quad) * PACK + vector) * lanes * TAPS
                    size = taps * layer.quads * PACK * lanes * TAPS
                    lines.append(
                        f"{name}[T.Ramp(0, 1, {lanes})] = {layer.w}.tap_dot({layer.w}.load({name}, 0), "
                        f"{layer.w}.interleave([{pixels}], {vector}), W, n * {size} + {place})"
                    )
    return lines


def _pixel(layer: _Layer, y: str, row: int, tap: int) -> str:
    window, source = layer.step.window, layer.source
    start = source.at(row - window.padding[0], tap * window.dilation[1] - window.padding[1])
    return f"{layer.w}.load(X, {start} + {y} * {window.stride[0] * source.row} + " \
           f"x * {window.stride[1] * source.pixel} + {layer.first}, {layer.chunk})"


def _stores(layer: _Layer, numbers: Parameters, y: str) -> list[str]:
    step, target, lanes, w = layer.step, layer.target, layer.e.lanes, layer.w
    vectors = add_rescale(numbers, step.rescale, target.pixel, layer.order)
    clip = None if (step.low, step.high) == (0, 255) else [numbers.splat_byte(end) for end in (step.low, step.high)]
    lines = []
    for out in range(layer.rows):
        names = [f"A{out * PACK + vector}" for vector in range(PACK)]
        for vector, name in enumerate(names):
            code = vectors.apply([f"{w}.load({name}, 0)"], f"(n * {PACK} + {vector}) * {lanes}", w)
            lines.append(f"{name}[T.Ramp(0, 1, {lanes})] = {code}")
        packed = f"{w}.pack_in_place([{', '.join(f'{w}.load({name}, 0)' for name in names)}])"
        if clip is not None:
            low, high = (f'{w}.bits("uint8x{layer.chunk}", {w}.load(P, {end}))' for end in clip)
            packed = f"{w}.clip({packed}, {low}, {high})"
        address = f"{target.at(out, 0)} + {y} * {target.row} + x * {target.pixel} + {layer.first}"
        lines.append(f"Y[T.Ramp({address}, 1, {layer.chunk})] = {packed}")
    return lines
