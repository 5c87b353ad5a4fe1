"""Sums, largest and smallest codes along any axes of a map, and the places of the largest: one element at a time."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from isobit.backends.fixed_point.operators.steps import ArgMax, Reduce
from isobit.backends.fixed_point.program import (
    Program,
)
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, make_kernel
from isobit.backends.tvm.kernels.layout import Place, output_of

_AXES = ("row", "column", "channel")


def _strides(place: Place) -> tuple[int, int, int]:
    return place.row, place.pixel, 1


def _address(place: Place, follows: tuple[int, int, int], indices: list[Expr]) -> Index:
    """The first element that belongs to an element of the output."""
    address: Index = place.at(0, 0)
    for axis, index in zip(follows, indices, strict=True):
        if axis >= 0:
            address = address + index * _strides(place)[axis]
    return address


def _inner(place: Place, follows: tuple[int, int, int]) -> list[tuple[str, int, int]]:
    """Name, size and stride of every axis that an element of the output goes over."""
    sizes = (place.height, place.width, place.channels)
    return [(_AXES[axis], sizes[axis], _strides(place)[axis]) for axis in range(3) if axis not in follows]


def reduce_call(step: Reduce, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """One code for all elements along some axes."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    inner, number = _inner(source, step.follows), output_of(step)
    numbers = _numbers(step.rescale) if step.rescale is not None else np.zeros((1, 1), np.int64)
    zeros = program.buffers[step.inputs[0]].zero_point * int(np.prod([size for _, size, _ in inner]))
    start = -zeros if step.rescale is not None else 0 if step.largest else 255

    def write(code: Code) -> None:
        fill_border(code, target, e.number("uint8", program.buffers[number].zero_point), code["output"])
        found = code.scratch("found", 1, "int32")
        with code.pixels(target) as (y, x), code.loop("channel", target.channels) as c:
            code.store(found, 0, e.number("int32", start))
            with ExitStack() as loops:
                address = _address(source, step.follows, [y, x, c])
                for name, size, stride in inner:
                    address = address + loops.enter_context(code.loop(f"inner_{name}", size)) * stride
                value = e.cast("int32", code["input"][address])
                code.store(found, 0, _joined(e, step, found, value))
            result = found[0] if step.rescale is None else _rescaled(code, e, found[0], step.low, step.high)
            code.store(code["output"], target.at(0, 0) + y * target.row + x * target.pixel + c,
                       e.cast("uint8", result))

    arguments = [
        Argument("input", (source.size,), "uint8"), Argument("numbers", numbers.shape, "int64"),
        Argument("output", (target.size,), "uint8"),
    ]
    return Call("reduce", make_kernel(arguments, write), step.inputs, (numbers,), (target.size,))


def _joined(e: InstructionSet, step: Reduce, found: Buffer, value: Expr) -> Expr:
    if step.rescale is not None:
        return found[0] + value
    return e.larger(found[0], value) if step.largest else e.smaller(found[0], value)


def _numbers(rescale: Rescale) -> np.ndarray:
    """int64 [1, 4]: multiplier, lift, offset, shift."""
    (term,) = rescale.terms
    return np.array([[int(term.multiplier[0]), term.lift, rescale.offset, rescale.shift]], np.int64)


def _rescaled(code: Code, e: InstructionSet, total: Expr, low: int, high: int) -> Expr:
    """`((total << lift) * multiplier + offset) >> shift`, clipped."""
    multiplier, lift, offset, shift = (code["numbers"][0, place] for place in range(4))
    wide = code.T.shift_left(e.cast("int64", total), lift) * multiplier + offset
    found = code.T.shift_right(wide, shift)
    return e.larger(e.smaller(found, e.number("int64", high)), e.number("int64", low))


def arg_max_call(step: ArgMax, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Where along one axis the largest, or the smallest, code stands; the first of equal ones."""
    source, size = places[step.inputs[0]], program.buffers[output_of(step)].size
    sizes = (source.height, source.width, source.channels)
    outer = [1 if axis < 0 else sizes[axis] for axis in step.follows]
    stride, along = _strides(source)[step.axis], sizes[step.axis]
    capacity = places[output_of(step)].size

    def write(code: Code) -> None:
        best = code.scratch("best", 1, "int32")
        with code.loop("a", outer[0]) as a, code.loop("b", outer[1]) as b, code.loop("c", outer[2]) as c:
            first = _address(source, step.follows, [a, b, c])
            code.store(best, 0, e.number("int32", 0))
            with code.loop("place", along) as place:
                new, old = code["input"][first + place * stride], code["input"][first + best[0] * stride]
                with code.when(old < new if step.largest else new < old):
                    code.store(best, 0, e.cast("int32", place))
            code.store(code["output"], (a * outer[1] + b) * outer[2] + c, best[0])
        if capacity > size:  # the rest of the least place that a tensor takes
            with code.loop("rest", capacity - size) as rest:
                code.store(code["output"], rest + size, e.number("int32", 0))

    arguments = [Argument("input", (source.size,), "uint8"), Argument("output", (capacity,), "int32")]
    return Call("arg_max", make_kernel(arguments, write), step.inputs, (), (capacity,), "int32")
