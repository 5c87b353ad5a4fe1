"""What the functions of a module must do, worked out from the lowered network alone."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from isobit.backends.fixed_point.floats.steps import Compute, Decode, Encode, FloatCall, FloatStep, Leave
from isobit.backends.fixed_point.operators.steps import ArgMax, Extreme, Gather, Reduce, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
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
)
from isobit.backends.readback.description import Undescribed
from isobit.backends.tvm.readback.flow import Given, Made, Parameter
from isobit.backends.tvm.readback.layers import conv_constants, conv_form, has_own_taps
from isobit.backends.tvm.readback.maps import map_of
from isobit.backends.tvm.readback.moves import border, grid, moved
from isobit.backends.tvm.readback.numbers import Wanted, Whole
from isobit.backends.tvm.readback.places import places_of
from isobit.backends.tvm.readback.processors import Processor

MAIN, CODES, TRACE, FOLLOW, PIECES = "main", "codes", "trace", "follow", "pieces"
FLOAT = "float"
_NAMES: dict[type[Step], str] = {
    Sum: "sum", Product: "product", Extreme: "extreme", GlobalAverage: "global_average", AveragePool: "average_pool",
    MaxPool: "max_pool", Resample: "resample", Lookup: "lookup", Concat: "concat", Move: "move", Gather: "gather",
    Dequantize: "dequantize", Decode: "dequantize", Encode: "quantize", Leave: "leave_float", Reduce: "reduce",
    ArgMax: "arg_max", Compute: FLOAT,
}


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel that must be called.

    Args:
        name: what the name of the function begins with.
        constants: after what it reads.
        shape, kind: of what it gives; None of operators in float.
        form: what of it is in the machine code: two calls of one function must have the same.
        layer: for messages.
        step: its name, for messages.
    """

    name: str
    constants: tuple[Wanted, ...]
    shape: tuple[int, ...] | None
    kind: str | None
    form: Hashable
    layer: str = ""
    step: str = ""


@dataclass(frozen=True)
class WantedCall:
    """A call: what it reads, `Given` or `Made`, before its constants."""

    kernel: Kernel
    reads: tuple[Given | Made, ...]


@dataclass
class WantedFlow:
    """A function: see `flow.Flow`."""

    parameters: tuple[Parameter, ...]
    calls: list[WantedCall] = field(default_factory=list)
    returned: tuple[Made, ...] = ()
    several: bool = False

    def call(self, kernel: Kernel, reads: Iterable[Given | Made]) -> Made:
        """Add a call."""
        self.calls.append(WantedCall(kernel, tuple(reads)))
        return Made(len(self.calls) - 1)


class WantedModule:
    """All functions, by name in their order.

    Args:
        program: what the reference was lowered to.
        processor: of the profile.

    Raises:
        Undescribed: it holds a step that has no description here.
    """

    def __init__(self, program: Program, processor: Processor) -> None:
        self.program, self.processor, self.places = program, processor, places_of(program)
        self.steps = [self._step(step) for step in program.steps]
        self.traced = [number for number in self._order() if program.buffers[number].quantized]
        self.followed = [step.output for step in program.steps
                         if isinstance(step, Encode) and step.output is not None]
        numbers = range(len(program.inputs))
        values, codes = [self._value(number) for number in numbers], [self._code(number) for number in numbers]
        self._near = {number: self._code(number) for number in dict.fromkeys((*self.traced, *self.followed))}
        self._leaving = {number: self._leave(number) for number in self.traced}
        self._finish = self._finished()
        self.functions = {MAIN: self._function(values, self._logits)}
        if not program.raw:  # else codes do not say all that is read of the inputs
            self.functions[CODES] = self._function(codes, self._logits)
        self.functions[TRACE] = self._function(values, self._everything)
        if self.followed:
            self.functions[FOLLOW] = self._function(values, self._everything, self.followed)
        self.functions[PIECES] = self._function(values, self._everything, self.traced)

    def enters(self, number: int) -> bool:
        """The codes of an input, or its integers, are there."""
        return self.program.buffers[number].quantized or any(number in step.inputs for step in self.program.steps)

    def _order(self) -> list[int]:
        written = [step.output for step in self.program.steps if step.output is not None]
        return [*range(len(self.program.inputs)), *written]

    def _step(self, step: Step) -> Kernel:
        program, places = self.program, self.places
        shape, kind = self._result(step)
        if isinstance(step, Conv):
            constants = conv_constants(step, program, places, self.processor)
            form: Hashable = conv_form(step, program, places, self.processor)
            name = "logits" if step.output is None else "depthwise" if has_own_taps(step, self.processor) else \
                "conv{}x{}".format(*step.window.kernel)
        elif isinstance(step, Compute):
            constants = tuple(Whole(f"parameter_{place}", each) for place, each in enumerate(step.parameters))
            name, form = FLOAT, step.call
        elif found := map_of(step, program, places, self.processor.lanes):
            constants, form, name = found.constants, (type(step), *found.form), _NAMES[type(step)]
        elif (found_ := moved(step, program, places)) is not None:
            constants, form, name = found_.constants, (_NAMES[type(step)], found_.form), _NAMES[type(step)]
        else:
            raise Undescribed(f"a step of {type(step).__name__} ({step.module or step.name})")
        return Kernel(name, constants, shape, kind, form, step.module or step.name, step.name)

    def _result(self, step: Step) -> tuple[tuple[int, ...] | None, str | None]:
        program = self.program
        if isinstance(step, Compute):
            return None, None
        if isinstance(step, FloatStep) and step.writes is not None:
            return program.floats[step.writes].shape, "float32"
        if step.output is not None:
            integers = program.buffers[step.output].integers
            return (self.places[step.output].size,), "int32" if integers else "uint8"
        if isinstance(step, Conv):
            lanes = self.processor.lanes
            return (-(-len(step.bias) // lanes) * lanes,), "float32"
        if isinstance(step, Leave):
            return (sum(math.prod(program.floats[number].shape) for number in step.reads),), "float32"
        if isinstance(step, Dequantize) and not step.parts:
            return (program.buffers[step.inputs[0]].size,), "float32"
        return (program.logits_of(step)[1],), "float32"

    # --- what brings values in and out ---

    def _value(self, number: int) -> tuple[Parameter, Kernel]:
        """An input as users give it."""
        buffer, place = self.program.buffers[number], self.places[number]
        if buffer.integers:
            return self._integers(number)
        shape = (1, *buffer.nchw)
        kernel = Kernel("quantize", grid(buffer.scale, buffer.zero_point), (place.size,), "uint8",
                        ("values", shape, place), step=buffer.name)
        return Parameter("", shape, "float32"), kernel

    def _code(self, number: int) -> tuple[Parameter, Kernel]:
        """A tensor as codes."""
        buffer, place = self.program.buffers[number], self.places[number]
        if buffer.integers:
            return self._integers(number)
        kernel = Kernel("enter", border(buffer.zero_point), (place.size,), "uint8", ("enter", place), step=buffer.name)
        return Parameter("", (1, *buffer.shape), "uint8"), kernel

    def _integers(self, number: int) -> tuple[Parameter, Kernel]:
        buffer, place = self.program.buffers[number], self.places[number]
        shape = (1, *buffer.nchw)
        kernel = Kernel("integers", (), (place.size,), "int32", ("integers", shape, place), step=buffer.name)
        return Parameter("", shape, "int32"), kernel

    def _arrive(self, number: int) -> Kernel:
        """An input that float operators read as it is given."""
        value = self.program.floats[number]
        return Kernel("arrive", (), value.shape, value.kind, ("arrive", value.shape, value.kind), step=value.name)

    def _leave(self, number: int) -> Kernel:
        place = self.places[number]
        return Kernel("leave", (), (1, *place.shape), "uint8", ("leave", place), step=self.program.buffers[number].name)

    def _finished(self) -> Kernel:
        leaving = [(kernel.shape, self.program.logits_of(step)) for kernel, step in
                   zip(self.steps, self.program.steps, strict=True) if _leaves(step)]
        return Kernel("finish", (), (1, *self.program.logits), "float32", ("finish", tuple(leaving)), step="logits")

    # --- functions ---

    def _function(self, entries: list[tuple[Parameter, Kernel]],
                  result: Callable[[WantedFlow, dict[int, Made], list[Made]], None],
                  taken: Iterable[int] = ()) -> WantedFlow:
        """A function of the inputs, and of codes that take the place of the tensors `taken` once they are there."""
        codes = {number: place for place, number in enumerate(taken, len(entries))}
        types = [*(parameter for parameter, _ in entries), *(self._near[number][0] for number in codes)]
        flow = WantedFlow(tuple(Parameter(f"x{number or ''}", each.shape, each.kind)
                                for number, each in enumerate(types)))
        read: dict[int, Made] = {}
        own: dict[int, Made] = {}
        leaving: list[Made] = []

        def there(number: int, value: Made) -> None:
            own[number] = read[number] = value
            if number in codes:
                read[number] = flow.call(self._near[number][1], [Given(codes[number])])

        entered = [(number, flow.call(kernel, [Given(number)]))
                   for number, (_, kernel) in enumerate(entries) if self.enters(number)]
        for number, value in entered:
            there(number, value)
        values: dict[int, Any] = {number: flow.call(self._arrive(number), [Given(place)])
                                  for number, place in self.program.raw.items()}
        for step, kernel in zip(self.program.steps, self.steps, strict=True):
            reads = [read[number] for number in step.inputs]
            if isinstance(step, FloatStep):
                reads += [values[number] for number in step.reads]
            made = flow.call(kernel, reads)
            if isinstance(step, FloatStep) and step.writes is not None:
                values[step.writes] = made
            elif step.output is not None:
                there(step.output, made)
            else:
                leaving.append(made)
        result(flow, own, leaving)
        return flow

    def _logits(self, flow: WantedFlow, own: dict[int, Made], leaving: list[Made]) -> None:
        flow.returned = (flow.call(self._finish, leaving),)

    def _everything(self, flow: WantedFlow, own: dict[int, Made], leaving: list[Made]) -> None:
        found = [flow.call(self._leaving[number], [own[number]]) for number in self.traced]
        flow.returned, flow.several = (*found, flow.call(self._finish, leaving)), True


def _leaves(step: Step) -> bool:
    """A step that writes logits."""
    return step.output is None and not (isinstance(step, FloatStep) and step.writes is not None)


def operator_of(call: FloatCall) -> str:
    """What an operator in float is called."""
    names = [getattr(node.target, "__name__", str(node.target)).partition(".")[0] for node in call.graph.nodes
             if node.op == "call_function"]
    return next((name for name in reversed(names) if name != operator.getitem.__name__), FLOAT)
