"""Depthwise convolutions where instructions multiply lane by lane: sixteen channels of neighbouring pixels at once.

The codes under a tap and its weights lie side by side as they are, so nothing is interleaved. Where all products of a
window fit 16 bits they are added there, two registers a pixel; else in 32 bits, four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.tvm.instructions.base import SIGNED, Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Call, Code, fill_border, last_fits
from isobit.backends.tvm.kernels.layers.depthwise import ApartNumbers, apart_call, apart_numbers, chunks_and_rows
from isobit.backends.tvm.kernels.layers.narrow import window_fits
from isobit.backends.tvm.kernels.layout import PIXEL, Place, output_of

CHANNELS = PIXEL
PIXELS = {"int16": 8, "int32": 4}  # of a tile, by the type of its sums: sixteen registers


@dataclass(frozen=True)
class _Layer:
    """The layer.

    Args:
        e: instructions on vectors of 16 lanes.
        kind: type of its sums.
        largest: code of the input.
    """

    step: Conv
    source: Place
    target: Place
    e: InstructionSet
    kind: str
    largest: int

    @property
    def columns(self) -> int:
        """Pixels of a tile."""
        return min(PIXELS[self.kind], self.target.width)


def channelwise_call(step: Conv, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The call of a depthwise convolution."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    largest, weights = largest_codes(program)[step.inputs[0]], _weights(step, target)
    kind = "int16" if window_fits(step, largest) else "int32"
    layer = _Layer(step, source, target, e.of(CHANNELS), kind, largest)
    numbers = apart_numbers(step, program, target.pixel, np.arange(target.pixel))
    return apart_call(step, (source, target), weights, numbers, lambda code: _write(code, layer, numbers))


def _weights(step: Conv, target: Place) -> np.ndarray:
    """[chunks of channels][R][S][channels], int8, flat."""
    codes = step.weights.codes[..., 0]
    padded = np.zeros((target.pixel, *codes.shape[1:]), np.int8)
    padded[:len(codes)] = codes
    return np.ascontiguousarray(padded.reshape(-1, CHANNELS, *codes.shape[1:]).transpose(0, 2, 3, 1)).reshape(-1)


def _write(code: Code, layer: _Layer, numbers: ApartNumbers) -> None:
    e, target = layer.e, layer.target
    sums = [code.scratch(f"sums{number}", CHANNELS, layer.kind) for number in range(layer.columns)]
    fill_border(code, target, e.cast("uint8", code["numbers"][numbers.border]), code["output"])
    with (
        chunks_and_rows(code, layer.step, target, target.pixel // CHANNELS, target.height) as (chunk, y),
        code.loop("tile_column", -(-target.width // layer.columns)) as column,
    ):
        x = last_fits(code, column, layer.columns, target.width)
        bias = e.load(code["numbers"], numbers.bias + chunk * CHANNELS)
        for total in sums:
            start = bias if layer.kind == "int32" else e.splat(e.number("int16", 0), CHANNELS)
            code.store(total, 0, start, CHANNELS)
        _write_products(code, layer, sums, chunk, y, x)
        for number, total in enumerate(sums):
            value = e.load(total, 0)
            if layer.kind == "int16":
                value = e.cast(f"int32x{CHANNELS}", value) + bias
            codes = e.pack([numbers.rescale.apply(e, code["numbers"], [value], chunk * CHANNELS)])
            if numbers.clip is not None:
                low, high = (e.bits(f"uint8x{CHANNELS}", e.load(code["numbers"], end, CHANNELS // 4))
                             for end in numbers.clip)
                codes = e.clip(codes, low, high)
            place = target.at(0, number) + y * target.row + x * target.pixel + chunk * CHANNELS
            code.store(code["output"], place, codes, CHANNELS)


def _write_products(
    code: Code, layer: _Layer, sums: Sequence[Buffer], chunk: Expr, y: Expr, x: Index
) -> None:
    """Add the products of all taps."""
    e, window, source = layer.e, layer.step.window, layer.source
    rows, columns = window.kernel
    half, whole = f"int16x{CHANNELS}", f"{layer.kind}x{CHANNELS}"
    start = source.at(-window.padding[0], -window.padding[1]) + y * (window.stride[0] * source.row) \
        + x * (window.stride[1] * source.pixel) + chunk * CHANNELS
    with code.loop("tap_row", rows) as r:
        for s in range(columns):
            tap = ((chunk * rows + r) * columns + s) * CHANNELS
            weights = e.cast(whole, e.cast(half, e.load(code["weights"], tap, CHANNELS)))
            for number, total in enumerate(sums):
                across = (number * window.stride[1] + s * window.dilation[1]) * source.pixel
                codes = e.load(code["input"], start + r * (window.dilation[0] * source.row) + across, CHANNELS)
                if layer.largest <= SIGNED:
                    codes = e.bits(f"int8x{CHANNELS}", codes)
                product = e.cast(whole, e.cast(half, codes)) * weights
                code.store(total, 0, e.load(total, 0, CHANNELS) + product, CHANNELS)
