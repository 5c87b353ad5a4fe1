"""Float steps as C: codes become values, operators call their kernels, values become codes or leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isobit.backends.c.constants import braces, float_text
from isobit.backends.c.floats.calls import Loop, Softmax, Source, written
from isobit.backends.c.writer import LOGITS, Code, Writer, shape_of
from isobit.backends.fixed_point.floats.steps import Compute, Decode, Encode, FloatStep, Leave
from isobit.backends.fixed_point.program import Buffer, Program, Step


def value_size(program: Program, number: int) -> int:
    """Elements of a value."""
    return math.prod(program.floats[number].shape)


def values_between(program: Program) -> Mapping[int, tuple[int, int]]:
    """The first and the last step at which each value lives."""
    found: dict[int, tuple[int, int]] = {}
    for index, step in enumerate(program.steps):
        if isinstance(step, FloatStep):
            for number in (*step.reads, *([] if step.writes is None else [step.writes])):
                found[number] = (found.get(number, (index, index))[0], index)
    return found


def _steps(buffer: Buffer) -> str:
    """Values from one row, column and channel of a tensor to the next, in the order of the graph."""
    height, width, channels = buffer.shape
    steps = (width * channels, channels, 1) if buffer.in_order else (width, 1, height * width)
    return braces(*steps)


def _decode(writer: Writer, step: Decode) -> Code:
    source = writer.inputs[0]
    call = (
        f"dequantize_part((struct shape){shape_of(source)}, (struct shape){_steps(source)}, {source.zero_point}, "
        f"{float_text(source.scale)}, {writer.x[0]}, {writer.value(_written(step))});"
    )
    return writer.code(("dequantize_part",), call)


def _encode(writer: Writer, step: Encode) -> Code:
    output = writer.output
    call = (
        f"encode((struct shape){shape_of(output)}, (struct shape){_steps(output)}, {output.zero_point}, "
        f"{float_text(output.scale)}, {step.low}, {step.high}, {writer.value(step.reads[0])}, {writer.y});"
    )
    return writer.code(("encode",), call)


def _leave(writer: Writer, step: Leave) -> Code:
    calls, first = [], writer.first
    for number in step.reads:
        size = value_size(writer.program, number)
        calls.append(f"memcpy({LOGITS} + {first}, {writer.value(number)}, {size} * sizeof(float));")
        first += size
    return writer.code((), *calls)


def _compute(writer: Writer, step: Compute) -> Code:
    y = writer.value(_written(step))
    pointers = [writer.value(number) for number in step.reads]
    pointers += [writer.array(f"parameter_{place}", values.astype(np.float32))
                 for place, values in enumerate(step.parameters)]
    kernels, calls = [], []
    for place, found in enumerate(written(step.call)):
        if isinstance(found, Softmax):
            kernels.append("softmax")
            calls.append(f"softmax({found.outer}, {found.size}, {found.inner}, {pointers[0]}, {y});")
        else:
            kernels.append("values")
            calls.append(_loop(writer, place, found, pointers, y))
    return writer.code(tuple(dict.fromkeys(kernels)), *calls)


def _loop(writer: Writer, place: int, loop: Loop, pointers: list[str], y: str) -> str:
    def pointer(source: Source, end: str) -> str:
        if source.number is None:
            return writer.array(f"constant{end}", np.array([source.value], np.float32))
        return f"{pointers[source.number]} + {source.offset}" if source.offset else pointers[source.number]

    sources = [loop.sources[0], loop.sources[-1]]
    names = [pointer(source, f"_{place}_{side}") for side, (source, _) in zip("ab", sources, strict=True)]
    grid = f"grid_{writer.number}_{place}"
    fields = ", ".join(braces(*values) for values in (loop.sizes, sources[0][1], sources[1][1], loop.steps))
    writer.constants.append(f"static const struct grid {grid} = {{{fields}}};")
    out = f"{y} + {loop.offset}" if loop.offset else y
    return f"values(&{grid}, '{loop.operator}', {names[0]}, {names[1]}, {out});"


def _written(step: FloatStep) -> int:
    if step.writes is None:
        raise ValueError(f"{step.name} writes no value")
    return step.writes


FLOATS: Mapping[type[Step], Callable[[Writer, Any], Code]] = {
    Decode: _decode, Encode: _encode, Compute: _compute, Leave: _leave,
}
