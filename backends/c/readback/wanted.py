"""What must stand in the files: every step of the program as an operator, worked out from what the step says it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isobit.backends.c.readback.calls import logits_of
from isobit.backends.c.readback.forms import Forms
from isobit.backends.c.readback.memory import Memory
from isobit.backends.fixed_point.floats.steps import Compute, Decode, Encode, FloatStep, Leave
from isobit.backends.fixed_point.operators.steps import ArgMax, Extreme, Gather, Reduce, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
    Buffer,
    Concat,
    Conv,
    Dequantize,
    GlobalAverage,
    Lookup,
    MaxPool,
    Move,
    Product,
    Program,
    Step,
    Sum,
    Window,
)
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.readback.description import Term, Terms, Undescribed

CODES = 256


class Wanted:
    """The program, described.

    Args:
        program: that was written.
        terms: shared with what is found.

    Attributes:
        tensors: what computes each tensor, by `tensor N`, and each part of the logits.
        layers: the module that each stands for.
    """

    def __init__(self, program: Program, terms: Terms) -> None:
        self.program, self.terms, self.forms = program, terms, Forms(terms)
        self.tensors: dict[str, Term] = {}
        self.layers: dict[str, str] = {}
        self.values: dict[int, Term] = {}
        self._integers: dict[int, Term] = {}
        self._logits = Memory(terms, "the logits", math.prod(program.logits))
        for step in program.steps:
            describe = _DESCRIBED.get(type(step))
            if describe is None:
                raise Undescribed(f"a step of {type(step).__name__} ({step.module or step.name})")
            term = describe(self, step)
            if isinstance(step, FloatStep) and step.writes is not None:
                self.values[step.writes] = term
            elif step.output is not None and program.buffers[step.output].integers:
                self._integers[step.output] = term
            elif step.output is not None:
                name = f"tensor {step.output}"
                self.tensors[name], self.layers[name] = term, step.module or step.name
        parts = logits_of(self._logits)
        self.tensors |= parts
        last = program.steps[-1] if program.steps else None
        self.layers |= dict.fromkeys(parts, (last.module or last.name) if last else "")

    def read(self, number: int) -> Term:
        """The tensor of a number."""
        return self._integers[number] if number in self._integers else self.terms.edge(str(number))

    def leave(self, step: Step, term: Term, elements: Any, places: Any) -> None:
        """Elements of a term are logits, `places` behind the first that the step writes."""
        first = self.program.logits_of(step)[0]
        order = np.argsort(places, kind="stable")
        elements, places = np.asarray(elements)[order], np.asarray(places)[order] + first
        self._logits.write(places, self.forms.leaves(term, elements, places))

    def zeros(self, step: Step, places: np.ndarray) -> None:
        """Logits that are 0."""
        self._logits.write(places + self.program.logits_of(step)[0], self.terms.operator("zero"))


def _shape(buffer: Buffer) -> tuple[int, int, int]:
    return buffer.shape


def _rescale(wanted: Wanted, rescale: Rescale, low: int, high: int) -> dict[str, Any]:
    return wanted.forms.rescale(rescale.offset, rescale.shift, low, high)


def _factor(wanted: Wanted, rescale: Rescale, place: int, channels: int) -> dict[str, Any]:
    term = rescale.terms[place]
    return wanted.forms.factor(np.broadcast_to(term.multiplier, channels), term.lift)


def _window(wanted: Wanted, window: Window) -> dict[str, Any]:
    return wanted.forms.window(window.kernel, window.stride, window.padding[:2], window.dilation)


def _buffers(wanted: Wanted, step: Step) -> list[Buffer]:
    numbers = (*step.inputs, *([] if step.output is None else [step.output]))
    return [wanted.program.buffers[number] for number in numbers]


def _conv(wanted: Wanted, step: Conv) -> Term:
    source, window = wanted.program.buffers[step.inputs[0]], step.window
    channels, _, _, group_in = step.weights.codes.shape
    before, after = window.padding[:2], window.padding[2:]
    rows, columns = ((source.shape[axis] + before[axis] + after[axis] - window.dilation[axis] * (
        window.kernel[axis] - 1) - 1) // window.stride[axis] + 1 for axis in (0, 1))
    fields = {"in": _shape(source), "out": (rows, columns, channels), **_window(wanted, window),
              "group": (group_in, channels // step.groups), "zero_point": source.zero_point}
    fields = wanted.forms.layer(fields, step.weights.codes, step.bias)
    x = wanted.read(step.inputs[0])
    if step.rescale is None:
        scale = wanted.terms.constant(step.scale_of_logits, np.float32)
        term = wanted.terms.operator("layer", x=x, **fields, scale=scale)
        count = rows * columns * channels
        wanted.leave(step, term, np.arange(count), np.arange(count))
        return term
    fields |= _rescale(wanted, step.rescale, step.low, step.high)
    fields |= wanted.forms.scaled("sum", _factor(wanted, step.rescale, 0, channels))
    other = None
    if step.residual:
        other = wanted.read(step.inputs[1])
        fields |= wanted.forms.scaled("residual", _factor(wanted, step.rescale, 1, channels))
        fields |= {"residual_zero": wanted.program.buffers[step.inputs[1]].zero_point}
    return wanted.terms.operator("layer", x=x, residual=other, **fields)


def _pair(wanted: Wanted, step: Step) -> tuple[dict[str, Any], int]:
    a, b, out = _buffers(wanted, step)
    pixels = {f"{name}_pixel": each.shape[2] if each.shape == out.shape else 0 for name, each in (("a", a), ("b", b))}
    return {"a": wanted.read(step.inputs[0]), "b": wanted.read(step.inputs[1]), "out": _shape(out), **pixels,
            "a_zero": a.zero_point, "b_zero": b.zero_point}, out.shape[2]


def _sum(wanted: Wanted, step: Sum) -> Term:
    fields, channels = _pair(wanted, step)
    for place, name in enumerate("ab"):
        fields |= wanted.forms.scaled(name, _factor(wanted, step.rescale, place, channels))
    return wanted.terms.operator("sum", **fields, **_rescale(wanted, step.rescale, step.low, step.high))


def _product(wanted: Wanted, step: Product) -> Term:
    fields, channels = _pair(wanted, step)
    fields |= _factor(wanted, step.rescale, 0, channels) | _rescale(wanted, step.rescale, step.low, step.high)
    return wanted.terms.operator("product", **fields)


def _extreme(wanted: Wanted, step: Extreme) -> Term:
    fields, channels = _pair(wanted, step)
    for name, rescale in zip("ab", step.rescales, strict=True):
        fields |= wanted.forms.scaled(name, _rescale(wanted, rescale, step.low, step.high) | _factor(
            wanted, rescale, 0, channels))
    return wanted.terms.operator("extreme", **fields, largest=int(step.largest))


def _lookup(wanted: Wanted, step: Lookup) -> Term:
    return wanted.forms.table(wanted.read(step.inputs[0]), step.table.reshape(-1, CODES))


def _concat(wanted: Wanted, step: Concat) -> Term:
    *sources, out = _buffers(wanted, step)
    pixels, width = out.shape[0] * out.shape[1], out.shape[2]
    memory, first = Memory(wanted.terms, "a concatenation", out.size), 0
    for number, source, table in zip(step.inputs, sources, step.tables, strict=True):
        table = np.arange(CODES) if table is None else table
        channels = source.shape[2]
        places = np.add.outer(np.arange(pixels) * width, np.arange(first, first + channels)).reshape(-1)
        memory.write(places, wanted.forms.table(wanted.read(number), table.reshape(1, CODES)))
        first += channels
    return memory.read(np.arange(out.size))


def _move(wanted: Wanted, step: Move) -> Term:
    source, out = _buffers(wanted, step)
    index = step.index
    if index is None:
        inside = np.full(out.shape, True)
        coordinates = [np.arange(out.shape[0]) * step.stride[0] + step.origin[0],
                       np.arange(out.shape[1]) * step.stride[1] + step.origin[1], step.channels.astype(np.int64)]
        for axis, values in enumerate(coordinates):
            along = values.reshape(*[-1 if axis == each else 1 for each in range(3)])
            inside &= (along >= 0) & (along < source.shape[axis])
        clipped = [np.clip(values, 0, size - 1) for values, size in zip(coordinates, source.shape, strict=True)]
        index = np.where(inside, np.ravel_multi_index(np.ix_(*clipped), source.shape), -1)
    fill = source.zero_point if step.fill is None else step.fill
    return wanted.forms.moved(wanted.read(step.inputs[0]), index, fill)


def _global_average(wanted: Wanted, step: GlobalAverage) -> Term:
    source = wanted.program.buffers[step.inputs[0]]
    height, width, channels = source.shape
    fields = {"in": _shape(source), "sum_of_zeros": source.zero_point * height * width}
    fields |= _rescale(wanted, step.rescale, step.low, step.high) | _factor(wanted, step.rescale, 0, channels)
    return wanted.terms.operator("global average", x=wanted.read(step.inputs[0]), **fields)


def _maps(wanted: Wanted, step: Step) -> dict[str, Any]:
    source, out = _buffers(wanted, step)
    return {"x": wanted.read(step.inputs[0]), "in": _shape(source), "out": _shape(out)}


def _scales(wanted: Wanted, step: AveragePool | Resample) -> dict[str, Any]:
    divisors, found = sorted(step.rescales), {}
    channels = wanted.program.buffers[step.output or 0].shape[2]
    choice = np.zeros(step.divisor.size, np.uint8)
    for number, divisor in enumerate(divisors):
        choice[step.divisor.reshape(-1) == divisor] = number
        rescale = step.rescales[divisor]
        found |= wanted.forms.scaled(f"scale_{number}", _rescale(wanted, rescale, step.low, step.high) | _factor(
            wanted, rescale, 0, channels))
    return {"choice": wanted.terms.constant(choice), **found}


def _average_pool(wanted: Wanted, step: AveragePool) -> Term:
    zero_point = {"zero_point": wanted.program.buffers[step.inputs[0]].zero_point}
    return wanted.terms.operator("average pool", **_maps(wanted, step), **_window(wanted, step.window), **zero_point,
                                 **_scales(wanted, step))


def _max_pool(wanted: Wanted, step: MaxPool) -> Term:
    return wanted.terms.operator("max pool", **_maps(wanted, step), **_window(wanted, step.window))


def _resample(wanted: Wanted, step: Resample) -> Term:
    fields = _maps(wanted, step) | {"zero_point": wanted.program.buffers[step.inputs[0]].zero_point}
    for name, taps in (("row", step.rows), ("column", step.columns)):
        fields |= {f"first_{name}s": wanted.terms.constant(taps.first, np.int32),
                   f"{name}_weights": wanted.terms.constant(taps.weights, np.int32)}
    return wanted.terms.operator("resample", **fields, **_scales(wanted, step))


def _gone_over(source: Buffer, follows: tuple[int, int, int], inner: list[int]) -> np.ndarray:
    """Elements of the input for each of the output, by the axes that its own follow."""
    numbers = np.arange(source.size).reshape(source.shape)
    outer = [axis for axis in follows if axis >= 0]
    outer += [axis for axis in range(3) if axis not in (*outer, *inner)]  # of one element, so that nothing follows it
    size = int(np.prod([source.shape[axis] for axis in inner]))
    return numbers.transpose(*outer, *inner).reshape(-1, size)


def _reduce(wanted: Wanted, step: Reduce) -> Term:
    source = wanted.program.buffers[step.inputs[0]]
    places = _gone_over(source, step.follows, [axis for axis in range(3) if axis not in step.follows])
    fields = {"x": wanted.read(step.inputs[0]), "elements": wanted.terms.constant(places, np.int32)}
    if step.rescale is None:
        return wanted.terms.operator("extreme along axes", **fields, largest=int(step.largest))
    fields |= {"sum_of_zeros": source.zero_point * places.shape[1]}
    fields |= _rescale(wanted, step.rescale, step.low, step.high) | _factor(wanted, step.rescale, 0, 1)
    return wanted.terms.operator("sum along axes", **fields)


def _arg_max(wanted: Wanted, step: ArgMax) -> Term:
    source = wanted.program.buffers[step.inputs[0]]
    places = wanted.terms.constant(_gone_over(source, step.follows, [step.axis]), np.int32)
    return wanted.terms.operator("place of the extreme", x=wanted.read(step.inputs[0]), elements=places,
                                 largest=int(step.largest))


def _gather(wanted: Wanted, step: Gather) -> Term:
    return wanted.terms.operator("rows", x=wanted.read(step.inputs[0]),
                                 table=wanted.terms.constant(step.table, np.uint8))


def _dequantize(wanted: Wanted, step: Dequantize) -> Term:
    sources, (_, count) = _buffers(wanted, step), wanted.program.logits_of(step)
    if not step.parts:
        source = sources[0]
        elements = np.arange(source.size).reshape(source.shape).transpose(2, 0, 1).reshape(-1)
        term = wanted.forms.decoded(wanted.read(step.inputs[0]), source.zero_point, source.scale)
        wanted.leave(step, term, elements, np.arange(source.size))
        return term
    places = [part.logits.astype(np.int64) if len(part.logits) else part.first + np.ravel(sum(
        np.ix_(*(np.arange(size) * each for size, each in zip(source.shape, part.steps, strict=True)))))
        for part, source in zip(step.parts, sources, strict=True)]
    nothing = np.setdiff1d(np.arange(count), np.concatenate(places))
    if len(nothing):
        wanted.zeros(step, nothing)
    for number, part, source, where in zip(step.inputs, step.parts, sources, places, strict=True):
        x = wanted.read(number)
        term = wanted.terms.operator("number", x=x) if source.integers else wanted.forms.decoded(
            x, source.zero_point, source.scale)
        wanted.leave(step, term, part.elements if len(part.logits) else np.arange(source.size), where)
    return wanted.terms.operator("several")


def _in_graph(buffer: Buffer) -> np.ndarray:
    """Where each element of a tensor stands in the order of the graph."""
    height, width, channels = buffer.shape
    numbers = np.arange(buffer.size)
    return numbers if buffer.in_order else numbers.reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)


def _decode(wanted: Wanted, step: Decode) -> Term:
    source = wanted.program.buffers[step.inputs[0]]
    return wanted.terms.operator(
        "values of codes", of=wanted.forms.decoded(wanted.read(step.inputs[0]), source.zero_point, source.scale),
        places=wanted.terms.constant(_in_graph(source), np.int32))


def _encode(wanted: Wanted, step: Encode) -> Term:
    (out,) = _buffers(wanted, step)
    return wanted.terms.operator(
        "encode", x=wanted.values[step.reads[0]], elements=wanted.terms.constant(_in_graph(out), np.int32),
        zero_point=out.zero_point, scale=wanted.terms.constant(out.scale, np.float32), low=step.low, high=step.high)


def _compute(wanted: Wanted, step: Compute) -> Term:
    node = list(step.call.graph.nodes)[-2]
    inputs = tuple(wanted.values[number] for number in step.reads)
    return wanted.terms.unread(getattr(node.target, "__name__", str(node.target)).partition(".")[0], inputs, step.name)


def _leave(wanted: Wanted, step: Leave) -> Term:
    first = 0
    for number in step.reads:
        size = math.prod(wanted.program.floats[number].shape)
        wanted.leave(step, wanted.values[number], np.arange(size), np.arange(first, first + size))
        first += size
    return wanted.terms.operator("several")


_DESCRIBED: Mapping[type[Step], Callable[[Wanted, Any], Term]] = {
    Conv: _conv, Sum: _sum, Product: _product, Extreme: _extreme, Lookup: _lookup, Concat: _concat, Move: _move,
    GlobalAverage: _global_average, AveragePool: _average_pool, MaxPool: _max_pool, Resample: _resample,
    Reduce: _reduce, ArgMax: _arg_max, Gather: _gather, Dequantize: _dequantize, Decode: _decode, Encode: _encode,
    Compute: _compute, Leave: _leave,
}
