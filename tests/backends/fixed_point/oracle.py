"""A plain numpy interpreter of programs, and makers of random steps: what kernels and lowered networks are held to.

Written from the docstrings of `backends.fixed_point.program` alone, in int64 and without a trick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.operators.steps import ArgMax, Extreme, Gather, Reduce, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
    Buffer,
    Concat,
    Conv,
    Dequantize,
    GlobalAverage,
    LogitPlaces,
    Lookup,
    MaxPool,
    Move,
    Product,
    Program,
    Step,
    Sum,
    Weights,
    Window,
)
from isobit.backends.fixed_point.rescale import Part, Rescale, make_rescale


def run(program: Program, codes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Every tensor [N, H, W, C] by its number, and the logits float32 [N, ...], of input codes [N, H, W, C]."""
    values: list[Any] = [None] * len(program.buffers)
    values[0] = codes.astype(np.int64)
    logits = np.full((len(codes), int(np.prod(program.logits))), np.nan, np.float32)
    for step in program.steps:
        result = compute(program, step, [values[number] for number in step.inputs])
        if step.output is None:
            first, count = program.logits_of(step)
            logits[:, first:first + count] = result.reshape(len(codes), -1)
        else:
            assert result.shape[1:] == program.buffers[step.output].shape, step.name
            assert result.min(initial=0) >= 0 and result.max(initial=0) <= 255, step.name
            values[step.output] = result
    return [value.astype(np.uint8) for value in values], logits.reshape(len(codes), *program.logits)


def compute(program: Program, step: Step, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Codes int64 [N, H, W, C] (float32 logits where the step gives them) of one step."""
    zeros = [program.buffers[number].zero_point for number in step.inputs]
    centered = [value - zero for value, zero in zip(inputs, zeros, strict=True)]
    match step:
        case Conv():
            return _conv(step, centered)
        case Sum():
            return clip(step, apply_rescale(step.rescale, centered))
        case Product():
            return clip(step, apply_rescale(step.rescale, [centered[0] * centered[1]]))
        case GlobalAverage():
            return clip(step, apply_rescale(step.rescale, [centered[0].sum((1, 2), keepdims=True)]))
        case AveragePool():
            return _average(step, centered[0])
        case Extreme():
            ends = [apply_rescale(rescale, [x]) for rescale, x in zip(step.rescales, centered, strict=True)]
            return clip(step, (np.maximum if step.largest else np.minimum)(*ends))
        case Reduce():
            return _reduce(step, inputs[0], centered[0], program.buffers[step.output].shape)
        case ArgMax():
            return _places(step, inputs[0])
        case Gather():
            rows = step.table.astype(np.int64)[inputs[0].clip(0, len(step.table) - 1)]
            return rows.reshape(len(rows), 1, -1, step.table.shape[1])
        case Resample():
            return _resample(step, centered[0])
        case MaxPool():
            return np.stack(windows(inputs[0], step.window, 0)).max(0)
        case Lookup():
            table = np.broadcast_to(step.table, (inputs[0].shape[-1], 256)).astype(np.int64)
            return table[np.arange(inputs[0].shape[-1]), inputs[0]]
        case Concat():
            moved = [x if table is None else table.astype(np.int64)[x]
                     for x, table in zip(inputs, step.tables, strict=True)]
            return np.concatenate(moved, -1)
        case Move():
            return _move(step, inputs[0], program.buffers[step.output].shape, zeros[0])
        case Dequantize(parts=()):
            scale = np.float32(program.buffers[step.inputs[0]].scale)
            return centered[0].transpose(0, 3, 1, 2).astype(np.float32) * scale
        case Dequantize():
            return _parts(program, step, centered)
    raise TypeError(type(step).__name__)


def _along(follows: tuple[int, int, int], x: np.ndarray, position: tuple[int, ...]) -> np.ndarray:
    """The elements that belong to a position of the output, [N, ...]."""
    index: list[Any] = [slice(None)] * 4
    for axis, place in zip(follows, position, strict=True):
        if axis >= 0:
            index[axis + 1] = place
    return x[tuple(index)].reshape(len(x), -1)


def _reduce(step: Reduce, x: np.ndarray, centered: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    result = np.zeros((len(x), *shape), np.int64)
    for position in np.ndindex(shape):
        if step.rescale is not None:
            total = _along(step.follows, centered, position).sum(1)[:, None]
            result[(slice(None), *position)] = clip(step, apply_rescale(step.rescale, [total]))[:, 0]
        else:
            found = _along(step.follows, x, position)
            result[(slice(None), *position)] = found.max(1) if step.largest else found.min(1)
    return result


def _places(step: ArgMax, x: np.ndarray) -> np.ndarray:
    sizes = [1 if axis < 0 else x.shape[axis + 1] for axis in step.follows]
    found = [_along(step.follows, x, position) for position in np.ndindex(*sizes)]
    return np.stack([part.argmax(1) if step.largest else part.argmin(1) for part in found], 1).reshape(len(x), 1, 1, -1)


def _resample(step: Resample, centered: np.ndarray) -> np.ndarray:
    total = np.zeros((len(centered), *step.divisor.shape, centered.shape[3]), np.int64)
    for y, x in np.ndindex(*step.divisor.shape):
        for i, row in enumerate(step.rows.weights[y]):
            for j, column in enumerate(step.columns.weights[x]):
                code = centered[:, step.rows.first[y] + i, step.columns.first[x] + j]
                total[:, y, x] += int(row) * int(column) * code
    result = np.zeros_like(total)
    for divisor, rescale in step.rescales.items():
        chosen = (step.divisor == divisor)[None, :, :, None]
        result = np.where(chosen, clip(step, apply_rescale(rescale, [total])), result)
    return result


def _parts(program: Program, step: Dequantize, centered: Sequence[np.ndarray]) -> np.ndarray:
    logits = np.zeros((len(centered[0]), program.logits_of(step)[1]), np.float32)
    for number, part, value in zip(step.inputs, step.parts, centered, strict=True):
        value = value.astype(np.float32) * np.float32(program.buffers[number].scale)
        if len(part.logits):
            logits[:, part.logits] = value.reshape(len(value), -1)[:, part.elements]
            continue
        for y, x, c in np.ndindex(value.shape[1:]):
            logits[:, part.first + y * part.steps[0] + x * part.steps[1] + c * part.steps[2]] = value[:, y, x, c]
    return logits


def apply_rescale(rescale: Rescale, values: Sequence[np.ndarray]) -> np.ndarray:
    """The rule as `backends.fixed_point.rescale` states it, channels last; checks that nothing leaves 64 bits."""
    total = np.full(1, rescale.offset, object)
    for term, value in zip(rescale.terms, values, strict=True):
        assert np.abs(value).max(initial=0) << term.lift < 1 << 31
        total = total + (value.astype(object) << term.lift) * term.multiplier.astype(object)
    assert max(total.max(initial=0), -total.min(initial=0)) < 1 << 63
    return (total >> rescale.shift).astype(np.int64)


def clip(step: Any, codes: np.ndarray) -> np.ndarray:
    """The ends of the step's grid."""
    return codes.clip(step.low, step.high)


def windows(x: np.ndarray, window: Window, outside: int) -> list[np.ndarray]:
    """[N, H_out, W_out, C] at each position of the window, row by row."""
    top, left, bottom, right = window.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=outside)
    rows = (x.shape[1] - window.dilation[0] * (window.kernel[0] - 1) - 1) // window.stride[0] + 1
    columns = (x.shape[2] - window.dilation[1] * (window.kernel[1] - 1) - 1) // window.stride[1] + 1
    found = []
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            y, z = row * window.dilation[0], column * window.dilation[1]
            found.append(x[:, y:y + rows * window.stride[0]:window.stride[0],
                           z:z + columns * window.stride[1]:window.stride[1]])
    return [part[:, :rows, :columns] for part in found]


def _conv(step: Conv, centered: Sequence[np.ndarray]) -> np.ndarray:
    codes = step.weights.codes.astype(np.int64)
    filters, channels = codes.shape[0], codes.shape[3]
    total = step.bias.astype(np.int64)
    parts = []
    for group in range(step.groups):
        chosen = codes[group * filters // step.groups:(group + 1) * filters // step.groups]
        places = windows(centered[0][..., group * channels:(group + 1) * channels], step.window, 0)
        flat = chosen.reshape(len(chosen), -1, channels)
        parts.append(sum(place @ flat[:, index].T for index, place in enumerate(places)))
    total = total + np.concatenate(parts, -1)
    assert np.abs(total).max(initial=0) < 1 << 31, step.name
    if step.rescale is None:
        return total.astype(np.float32) * step.logit_scale
    return clip(step, apply_rescale(step.rescale, [total, *centered[1:]]))


def _average(step: AveragePool, centered: np.ndarray) -> np.ndarray:
    total = sum(windows(centered, step.window, 0))
    result = np.zeros_like(total)
    for divisor, rescale in step.rescales.items():
        chosen = (step.divisor == divisor)[None, :, :, None]
        result = np.where(chosen, clip(step, apply_rescale(rescale, [total])), result)
    return result


def _move(step: Move, x: np.ndarray, shape: tuple[int, int, int], zero: int) -> np.ndarray:
    if step.index is not None:
        flat = np.concatenate([x.reshape(len(x), -1), np.full((len(x), 1), zero)], 1)
        return flat[:, step.index].reshape(-1, *shape)
    result = np.full((len(x), *shape), zero, np.int64)
    for y in range(shape[0]):
        for z in range(shape[1]):
            row, column = y * step.stride[0] + step.origin[0], z * step.stride[1] + step.origin[1]
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                known = step.channels >= 0
                result[:, y, z, known] = x[:, row, column][:, step.channels[known]]
    return result


# --- random steps -----------------------------------------------------------------------------------------------------


def make_buffer(name: str, shape: tuple[int, int, int], zero_point: int = 0, quantized: bool = True) -> Buffer:
    """A tensor whose channels come first in the graph."""
    height, width, channels = shape
    return Buffer(name, shape, zero_point, 0.05, quantized, (channels, height, width))


def make_parts() -> Program:
    """Logits of three tensors: two by steps, one by a table that reads an element twice; some come from nowhere."""
    none = np.zeros(0, np.int32)
    table = LogitPlaces(0, (0, 0, 0), np.array([3, 0, 3], np.int32), np.array([31, 30, 33], np.int32))
    buffers = (make_buffer("a", (2, 3, 4), 7), make_buffer("b", (1, 1, 6), 3), make_buffer("c", (2, 2, 3), 9))
    parts = (LogitPlaces(0, (12, 1, 3), none, none), LogitPlaces(24, (0, 0, 1), none, none), table)
    return Program(buffers, (Dequantize("y", "", (0, 1, 2), None, parts),), (35,))


def make_conv(
    source: tuple[int, int, int], filters: int, kernel: tuple[int, int] = (3, 3), *,
    stride: tuple[int, int] = (1, 1), padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilation: tuple[int, int] = (1, 1), groups: int = 1, bits: int = 8, signed: bool = True,
    zero_points: tuple[int, int] = (0, 0), residual_zero: int | None = None, logits: bool = False,
    low: int = 0, high: int = 255, seed: int = 0, largest: int = 255,
) -> Program:
    """A program of one convolution with random weights: tensor 0 its input, 1 the residual where there is one.

    With a largest code of its input a table stands before it, whose input is the last tensor.

    Args:
        signed: codes around 0; else asymmetric ones, with an offset of their own in each channel.
        zero_points: of input and output.
        largest: code of the input.
        residual_zero: zero point of a residual tensor; None for none.
    """
    random = np.random.default_rng(seed)
    height, width, channels = source
    window = Window(kernel, stride, padding, dilation)
    shape = (filters, *kernel, channels // groups)
    middle = 1 << (bits - 1)
    offset = np.full(filters, middle) if signed else random.integers(0, 1 << bits, filters)
    codes = random.integers(0, 1 << bits, shape) - offset.reshape(-1, 1, 1, 1)
    codes = codes.clip(-128, 127).astype(np.int8)
    bias = random.integers(-3000, 3000, filters).astype(np.int32)
    top, left, bottom, right = padding
    rows = (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    columns = (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    buffers = [make_buffer("x", source, zero_points[0])]
    inputs = [0]
    if residual_zero is not None:
        inputs.append(1)
        buffers.append(make_buffer("residual", (rows, columns, filters), residual_zero))
    rescale = None
    if not logits:
        bound = int(np.abs(codes.astype(int)).sum((1, 2, 3)).max()) * 255 + 3000
        parts = [Part(random.uniform(0.3, 1.0, filters) * 300 / bound, bound)]
        if residual_zero is not None:
            parts.append(Part(np.array([random.uniform(0.2, 1.5)]), 255))
        rescale = make_rescale(parts, zero_points[1])
        buffers.append(make_buffer("y", (rows, columns, filters), zero_points[1]))
    scale = random.uniform(0.001, 0.1, filters).astype(np.float32) if logits else None
    step = Conv("y", "layer", tuple(inputs), None if logits else len(buffers) - 1,
                Weights(codes, bits, offset.astype(np.int16)), bias, window, groups, rescale, low, high, scale)
    steps: tuple[Step, ...] = (step,)
    if largest < 255:
        buffers.append(make_buffer("wide", source))
        steps = (Lookup("x", "", (len(buffers) - 1,), 0, np.arange(256, dtype=np.uint8).clip(0, largest),
                        high=largest), step)
    return Program(tuple(buffers), steps, (rows * columns * filters,) if logits else ())


def random_codes(program: Program, number: int, samples: int = 2, seed: int = 1) -> np.ndarray:
    """Codes of one tensor of a program, uint8 [samples, H, W, C]: any that it may hold."""
    ends = largest_codes(program)[number] + 1
    return np.random.default_rng(seed).integers(0, ends, (samples, *program.buffers[number].shape)).astype(np.uint8)


def make_rescale_of(ratios: Sequence[float], bounds: Sequence[int], zero_point: int = 0) -> Rescale:
    """A rescale with one ratio a term for all channels."""
    return make_rescale([Part(np.array([ratio]), bound) for ratio, bound in zip(ratios, bounds, strict=True)],
                        zero_point)
