"""Kernels between codes and values: decoded, encoded, laid out as the network's outputs."""

from __future__ import annotations

import math

import numpy as np

from isobit.backends.fixed_point.floats.steps import Decode, Encode, Leave
from isobit.backends.fixed_point.program import Program
from isobit.backends.tvm.instructions.base import Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, make_kernel
from isobit.backends.tvm.kernels.layout import Place, output_of
from isobit.backends.tvm.kernels.parameters import Parameters


def decode_call(step: Decode, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """`float32(code - zero_point) * scale`, in the graph's shape."""
    source, buffer = places[step.inputs[0]], program.buffers[step.inputs[0]]
    numbers = Parameters()
    zero, scale = numbers.splat(buffer.zero_point), numbers.splat(int(np.float32(buffer.scale).view(np.int32)))
    shape = program.floats[step.writes or 0].shape

    def write(code: Code) -> None:
        with code.pixels(source) as (y, x), code.loop("channel", source.channels) as c:
            whole = e.cast("int32", code["input"][_element(source, y, x, c)]) - code["numbers"][zero]
            value = e.cast("float32", whole) * e.bits("float32", code["numbers"][scale])
            number = _number(source, y, x, c, buffer.in_order)
            code.store(code["output"], _indices(number, shape), value)

    arguments = [
        Argument("input", (source.size,), "uint8"), _table(numbers.array), Argument("output", shape, "float32")
    ]
    return Call("dequantize", make_kernel(arguments, write), step.inputs, (numbers.array,), shape, "float32")


def encode_call(step: Encode, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """`clip(round_half_even(x / scale) + zero_point, low, high)`, into the place of codes."""
    target, buffer = places[output_of(step)], program.buffers[output_of(step)]
    numbers = Parameters()
    zero, scale = numbers.splat(buffer.zero_point), numbers.splat(int(np.float32(buffer.scale).view(np.int32)))
    value = program.floats[step.reads[0]]

    def write(code: Code) -> None:
        one, T = e.of(1), code.T
        fill_border(code, target, e.cast("uint8", code["numbers"][zero]), code["output"])
        with code.pixels(target) as (y, x), code.loop("channel", target.channels) as c:
            number = _number(target, y, x, c, buffer.in_order)
            real = e.cast("float32", code["input"][*_indices(number, value.shape)])
            found = one.quantize(real, code["numbers"][scale], code["numbers"][zero])
            if (step.low, step.high) != (0, 255):
                found = T.min(T.max(found, T.int32(step.low)), T.int32(step.high))
            code.store(code["output"], _element(target, y, x, c), e.cast("uint8", found))

    arguments = [
        Argument("input", value.shape, value.kind), _table(numbers.array), Argument("output", (target.size,), "uint8")
    ]
    return Call("quantize", make_kernel(arguments, write), (), (numbers.array,), (target.size,), "uint8")


def leave_call(step: Leave, program: Program, e: InstructionSet) -> Call:
    """The elements of every value, one after the other, flat: `finish_call` gives the shape."""
    values = [program.floats[number] for number in step.reads]
    size = sum(math.prod(value.shape) for value in values)

    def write(code: Code) -> None:
        first = 0
        for place, value in enumerate(values):
            count = math.prod(value.shape)
            with code.loop("element", count) as number:
                found = code[f"input{place}"][*_indices(number, value.shape)]
                code.store(code["logits"], first + number, e.cast("float32", found))
            first += count

    arguments = [Argument(f"input{place}", value.shape, value.kind) for place, value in enumerate(values)]
    kernel = make_kernel([*arguments, Argument("logits", (size,), "float32")], write)
    return Call("leave_float", kernel, (), (), (size,), "float32")


def _table(numbers: np.ndarray) -> Argument:
    return Argument("numbers", numbers.shape, numbers.dtype.name)


def _element(place: Place, y: Index, x: Index, c: Index) -> Index:
    return place.at(0, 0) + y * place.row + x * place.pixel + c


def _number(place: Place, y: Expr, x: Expr, c: Expr, in_order: bool) -> Expr:
    """Number of an element in the order of the graph: channels first, or as the map is."""
    if in_order:
        return (y * place.width + x) * place.channels + c
    return (c * place.height + y) * place.width + x


def _indices(number: Expr, shape: tuple[int, ...]) -> list[Index]:
    """The indices of an element by its number, of any shape."""
    found: list[Index] = []
    for size in reversed(shape):
        found.insert(0, number % size)
        number = number // size
    return found or [0]
