"""Depthwise convolutions on x86: up to four neighbouring pixels of a row are interleaved into one dot product.

Byte unpacks put the codes of four taps side by side for each channel, which is what `vpdpbusd` sums (AVX2 sums them in
two pairs, of bytes or of words). Where instructions add pairs of bytes in 16 bits and the products of a window fit, two
taps lie side by side: half the unpacks, half the registers; windows that fit as two such sums only, as of 7-bit weights
and codes, are not worth a third way and are added in 32 bits. Each input row is interleaved once for all output rows of
the tile that it enters. The unpacks leave channels in the order in which the saturating packs take them back, so
nothing is permuted; the layer's numbers are stored in that order instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.tvm.instructions.base import PACK, Buffer, Expr, Index
from isobit.backends.tvm.instructions.x86 import X86
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, last_fits, make_kernel
from isobit.backends.tvm.kernels.layers.layer import add_layer_rescale
from isobit.backends.tvm.kernels.layers.narrow import longest_run, narrow_sums, window_fits
from isobit.backends.tvm.kernels.layout import Place, output_of
from isobit.backends.tvm.kernels.parameters import Parameters
from isobit.backends.tvm.kernels.rescaling import RealVectors, Vectors
from isobit.backends.tvm.kernels.threads import evenness, is_shared

TAPS, PAIR = 4, 2  # of one dot product: in 32 bits, in 16
UNIT = 16  # channels of 128 bits
DENSE = 3  # products of a dense layer take as long as one of these


def is_depthwise(step: Conv) -> bool:
    """One filter a channel, and no residual."""
    filters = step.weights.codes.shape[0]
    return step.groups == filters > 1 and step.weights.codes.shape[3] == 1 and not step.residual \
        and step.rescale is not None


@dataclass(frozen=True)
class _Layer:
    """The layer, `chunk` channels at a time; the last chunk is moved back to end with the pixel.

    Args:
        rows: of output pixels in a tile.
        narrow: the products of a window are added in 16 bits, tap by pair of taps.
    """

    step: Conv
    source: Place
    target: Place
    e: X86
    rows: int
    narrow: bool

    @property
    def chunk(self) -> int:
        return PACK * self.e.lanes

    @property
    def chunks(self) -> int:
        return -(-self.target.pixel // self.chunk)

    @property
    def taps(self) -> int:
        """How many one dot product adds; as many vectors hold a chunk."""
        return PAIR if self.narrow else TAPS

    @property
    def dots(self) -> int:
        """Dot products of one row of the window."""
        return -(-self.step.window.kernel[1] // self.taps)

    def order(self, vectors: int = PACK) -> np.ndarray:
        """Channels in the order of chunks, the vectors of one, and lanes."""
        starts = np.minimum(np.arange(self.chunks) * self.chunk, self.target.pixel - self.chunk)
        units = np.arange(self.chunk).reshape(-1, vectors, UNIT // vectors)
        within = units.transpose(1, 0, 2).reshape(-1)
        return (starts[:, None] + within).reshape(-1)


def depthwise_call(step: Conv, program: Program, places: list[Place], e: X86) -> Call:
    """The call of a depthwise convolution."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    lanes = next(lanes for lanes in e.widths if PACK * lanes <= target.pixel)
    layer = _Layer(step, source, target, e.of(lanes), min(e.depthwise_rows, target.height), False)
    layer = _by_bytes(layer, largest_codes(program)[step.inputs[0]]) or layer
    weights, numbers = _weights(layer), apart_numbers(step, program, target.pixel, layer.order())
    return apart_call(step, (source, target), weights, numbers, lambda code: _write(code, layer, numbers))


def apart_call(
    step: Conv, places: tuple[Place, Place], weights: np.ndarray, numbers: ApartNumbers, write: Callable[[Code], None]
) -> Call:
    """The call of a kernel for one filter a channel, whose statements `write` writes; `places` of input and output."""
    source, target = places
    arguments = [
        Argument("input", (source.size,), "uint8"), Argument("weights", weights.shape, weights.dtype.name),
        Argument("numbers", numbers.array.shape, "int32"), Argument("output", (target.size,), "uint8"),
    ]
    return Call("depthwise", make_kernel(arguments, write), step.inputs, (weights, numbers.array), (target.size,))


def _by_bytes(layer: _Layer, largest: int) -> _Layer | None:
    """The layer whose codes 0 ... largest are multiplied as bytes; None where sums might not fit 16 bits."""
    e = layer.e.by_bytes(largest)
    if not isinstance(e, X86):
        return None
    height = layer.target.height
    if window_fits(layer.step, largest):
        tile = min(e.narrow_rows, key=lambda count: (-(-height // count) * count, count))
        return replace(layer, e=e.of(layer.e.lanes), rows=min(tile, height), narrow=True)
    found = replace(layer, e=e.of(layer.e.lanes), rows=min(e.depthwise_rows, height))
    loops = (layer.step.window.kernel[0], found.dots)
    weights = _weights(found).reshape(found.chunks, math.prod(loops), -1)
    return found if longest_run(e.by_sum(weights), loops, largest) else None


@dataclass(frozen=True)
class ApartNumbers:
    """The constant `numbers`, and where in it things begin: see `layer.Numbers`."""

    array: np.ndarray
    border: int
    bias: int
    rescale: Vectors | RealVectors
    clip: tuple[int, int] | None


def apart_numbers(step: Conv, program: Program, pixel: int, order: np.ndarray) -> ApartNumbers:
    """All numbers of a layer of one filter a channel: of `pixel` padded channels, in `order`."""
    parameters = Parameters()
    if step.rescale is None:
        raise TypeError(f"no depthwise kernel for '{step.name}', which writes the logits")
    border = parameters.splat(program.buffers[output_of(step)].zero_point)
    bias = parameters.add(_bias(step, program, pixel)[order])
    rescale = add_layer_rescale(parameters, step.rescale, step, program, pixel, order)
    clip = None if (step.low, step.high) == (0, 255) else \
        (parameters.splat_byte(step.low), parameters.splat_byte(step.high))
    return ApartNumbers(parameters.array, border, bias, rescale, clip)


def _weights(layer: _Layer) -> np.ndarray:
    """[chunks][R][dots][vectors][channels of one][taps]; flat."""
    codes, of_dot = layer.step.weights.codes[..., 0], layer.taps
    filters, rows, columns = codes.shape
    padded = np.zeros((layer.target.pixel, rows, layer.dots * of_dot), codes.dtype)
    padded[:filters, :, :columns] = codes
    taps = padded[layer.order(of_dot)].reshape(layer.chunks, of_dot, -1, rows, layer.dots, of_dot)
    ordered = taps.transpose(0, 3, 4, 1, 2, 5)
    if layer.e.taps == "int16":  # the even taps of all lanes, then the odd ones
        ordered = np.stack([ordered[..., 0::2], ordered[..., 1::2]], -3)
    return np.ascontiguousarray(ordered).astype(layer.e.taps).reshape(-1)


def _bias(step: Conv, program: Program, pixel: int) -> np.ndarray:
    bias = np.zeros(pixel, np.int64)
    zero = program.buffers[step.inputs[0]].zero_point
    bias[:len(step.bias)] = step.bias - zero * step.weights.codes.astype(np.int64).sum((1, 2, 3))
    return bias


@dataclass(frozen=True)
class _Position:
    """One chunk of channels of one column of output pixels.

    Args:
        chunk: its number.
        channel: its first channel.
        y: first row.
        x: column.
    """

    chunk: Expr
    channel: Index
    y: Index
    x: Expr


def _write(code: Code, layer: _Layer, numbers: ApartNumbers) -> None:
    target, e = layer.target, layer.e
    sums = narrow_sums(code, e, layer.rows * PAIR) if layer.narrow else code.sums(layer.rows * PACK, e.lanes)
    fill_border(code, target, e.cast("uint8", code["numbers"][numbers.border]), code["output"])
    rows = -(-target.height // layer.rows)
    with (
        chunks_and_rows(code, layer.step, target, layer.chunks, rows) as (chunk, row),
        code.loop("column", target.width) as x,
    ):
        channel = last_fits(code, chunk, layer.chunk, target.pixel)
        y = row if layer.rows == 1 else e.smaller(row * layer.rows, target.height - layer.rows)
        position = _Position(chunk, channel, y, x)
        biases = [e.load(code["numbers"], numbers.bias + (chunk * PACK + i) * e.lanes) for i in range(PACK)]
        for i, vector in enumerate(sums):
            if layer.narrow:
                code.store(vector, 0, e.splat(e.number("int16", 0), e.narrow_lanes), e.narrow_lanes)
            else:
                code.store(vector, 0, biases[i % PACK], e.lanes)
        _write_products(code, layer, sums, position)
        for out in range(layer.rows):
            vectors = sums[out * layer.taps:(out + 1) * layer.taps]
            if layer.narrow:
                parts = [e.load(vector, 0, e.narrow_lanes) for vector in vectors]
                wide = [e.sign_extended(part, half) for part in parts for half in range(2)]
                totals = [each + bias for each, bias in zip(wide, biases, strict=True)]
            else:
                totals = [e.load(vector, 0) for vector in vectors]
            _write_codes(code, layer, numbers, totals, position, out)


@contextmanager
def chunks_and_rows(code: Code, step: Conv, target: Place, chunks: int, rows: int) -> Iterator[tuple[Expr, Expr]]:
    """Loops over chunks and rows of tiles; threads share the outer one, which is what they share more evenly."""
    shared = is_shared(DENSE * target.height * target.width * step.weights.codes.size)
    if shared and evenness(rows) > evenness(chunks):
        with code.loop("tile_row", rows, shared) as row, code.loop("chunk", chunks) as chunk:
            yield chunk, row
    else:
        with code.loop("chunk", chunks, shared) as chunk, code.loop("tile_row", rows) as row:
            yield chunk, row


def _write_products(code: Code, layer: _Layer, sums: list[Buffer], position: _Position) -> None:
    """Each input row once: interleaved, and summed into every output row that it is a tap of."""
    window, e, vectors = layer.step.window, layer.e, layer.taps
    taps = window.kernel[0]
    add, lanes = (e.narrow_tap_dot, e.narrow_lanes) if layer.narrow else (e.tap_dot, e.lanes)
    size = layer.chunk  # weights of a vector of dot products
    for row in range((layer.rows - 1) * window.stride[0] + (taps - 1) * window.dilation[0] + 1):
        users = [
            (out, tap) for out in range(layer.rows) for tap in range(taps)
            if out * window.stride[0] + tap * window.dilation[0] == row
        ]
        for dot in range(layer.dots if users else 0):
            pixels = [_pixel(code, layer, position, row, dot * layer.taps + i) for i in range(layer.taps)]
            codes = [e.interleave(pixels, vector) for vector in range(vectors)]
            for out, tap in users:
                for vector in range(vectors):
                    place = (tap * layer.dots + dot) * vectors + vector
                    total = sums[out * vectors + vector]
                    weights = (position.chunk * (taps * layer.dots * vectors) + place) * size
                    code.store(total, 0, add(e.load(total, 0, lanes), codes[vector], code["weights"], weights), lanes)


def _pixel(code: Code, layer: _Layer, position: _Position, row: int, tap: int) -> Expr:
    """The codes of a chunk under one tap of a window; zeros beyond its last column."""
    window, source, e = layer.step.window, layer.source, layer.e
    if tap >= window.kernel[1]:
        return e.splat(e.number("uint8", 0), layer.chunk)
    start = source.at(row - window.padding[0], tap * window.dilation[1] - window.padding[1])
    place = start + position.y * (window.stride[0] * source.row) + position.x * (window.stride[1] * source.pixel) \
        + position.channel
    return e.load(code["input"], place, layer.chunk)


def _write_codes(
    code: Code, layer: _Layer, numbers: ApartNumbers, totals: Sequence[Expr], position: _Position, row: int
) -> None:
    """Requantize the sums of a chunk of a pixel in a row of the tile, and store its codes."""
    target, e = layer.target, layer.e
    packed = e.pack_in_place([
        numbers.rescale.apply(e, code["numbers"], [total], (position.chunk * PACK + i) * e.lanes)
        for i, total in enumerate(totals)])
    if numbers.clip is not None:
        low, high = (e.bits(f"uint8x{layer.chunk}", e.load(code["numbers"], end)) for end in numbers.clip)
        packed = e.clip(packed, low, high)
    place = target.at(row, 0) + position.y * target.row + position.x * target.pixel + position.channel
    code.store(code["output"], place, packed, layer.chunk)
