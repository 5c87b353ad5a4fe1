"""A program as one TVM module: kernels without duplicates, constants, and Relax functions that call them in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

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
from isobit.backends.tvm.floats import function_of
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.instructions.base import InstructionSet
from isobit.backends.tvm.instructions.x86 import X86
from isobit.backends.tvm.kernels import floats, moves, pointwise
from isobit.backends.tvm.kernels.elements.gather import gather_call
from isobit.backends.tvm.kernels.elements.reduction import arg_max_call, reduce_call
from isobit.backends.tvm.kernels.kernel import Call
from isobit.backends.tvm.kernels.layers.channelwise import channelwise_call
from isobit.backends.tvm.kernels.layers.conv import conv_call
from isobit.backends.tvm.kernels.layers.depthwise import depthwise_call, is_depthwise
from isobit.backends.tvm.kernels.layers.winograd import winograd_call, winograd_set
from isobit.backends.tvm.kernels.layout import Place, plan_places

if TYPE_CHECKING:
    from tvm.ir import GlobalVar
    from tvm_ffi import StructuralKey


@dataclass(frozen=True)
class _Values:
    """What the steps of a function gave.

    Args:
        read: by the number of the tensor, as later steps read it.
        own: by number, of tensors that codes take the place of, what the step itself gave; nobody reads it.
        leaving: padded logits by the place of their step.
    """

    read: dict[int, Any]
    own: dict[int, Any] = field(default_factory=dict)
    leaving: dict[int, Any] = field(default_factory=dict)


def step_call(step: Step, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The kernel of one step."""
    match step:
        case Conv() if isinstance(e, X86) and is_depthwise(step):
            return depthwise_call(step, program, places, e)
        case Conv() if is_depthwise(step):
            return channelwise_call(step, program, places, e)
        case Conv() if transforming := winograd_set(step, program, places, e):
            return winograd_call(step, program, places, transforming)
        case Conv():
            return conv_call(step, program, places, e)
        case Sum():
            return pointwise.sum_call(step, program, places, e)
        case Extreme():
            return pointwise.extreme_call(step, program, places, e)
        case Resample():
            return pointwise.resample_call(step, program, places, e)
        case Reduce():
            return reduce_call(step, program, places, e)
        case ArgMax():
            return arg_max_call(step, program, places, e)
        case Gather():
            return gather_call(step, program, places, e)
        case Product():
            return pointwise.product_call(step, program, places, e)
        case GlobalAverage():
            return pointwise.global_average_call(step, program, places, e)
        case AveragePool():
            return pointwise.average_pool_call(step, program, places, e)
        case MaxPool():
            return pointwise.max_pool_call(step, program, places, e)
        case Lookup():
            return moves.lookup_call(step, program, places, e)
        case Concat():
            return moves.concat_call(step, program, places, e)
        case Move():
            return moves.move_call(step, program, places, e)
        case Decode():
            return floats.decode_call(step, program, places, e)
        case Encode():
            return floats.encode_call(step, program, places, e)
        case Leave():
            return floats.leave_call(step, program, e)
        case Dequantize(parts=()):
            return moves.dequantize_call(step, program, places, e)
        case Dequantize():
            return moves.dequantize_parts_call(step, program, places, e)
    raise TypeError(f"no kernel for {type(step).__name__}")


class ModuleBuilder:
    """Collects kernels and builds the functions `main`, `codes`, `trace`, `follow` and `pieces`.

    Args:
        program: the network.
        flavour: instruction set of the kernels.
    """

    def __init__(self, program: Program, flavour: str) -> None:
        from tvm import relax

        self.program, self.e = program, instruction_set(flavour)
        self.places = plan_places(program)
        self.calls = [
            step if isinstance(step, Compute) else step_call(step, program, self.places, self.e)
            for step in program.steps
        ]
        self._builder = relax.BlockBuilder()
        self._kernels: dict[StructuralKey, GlobalVar] = {}
        self._constants: dict[bytes, Any] = {}
        self._functions: dict[FloatCall, GlobalVar] = {}

    def build(self) -> Any:
        """The IRModule."""
        numbers = range(len(self.program.inputs))
        values = [moves.quantize_call(self.program, number, self.places[number], self.e) for number in numbers]
        codes = [moves.enter_call(self.program, number, self.places[number], self.e) for number in numbers]
        self._function("main", values, self._logits)
        if not self.program.raw:  # else codes do not say all that is read of the inputs
            self._function("codes", codes, self._logits)
        self._function("trace", values, self._everything)
        if self.followed:
            self._function("follow", values, self._everything, self.followed)
        self._function("pieces", values, self._everything, self.traced)
        return self._builder.get()

    @property
    def traced(self) -> list[int]:
        """Numbers of the tensors that `trace` returns: the quantized ones in execution order."""
        return [number for number in self.program.order if self.program.buffers[number].quantized]

    @property
    def followed(self) -> list[int]:
        """Numbers of the tensors right after float operators: `follow` goes on from codes that it is given of them."""
        return [step.output for step in self.program.steps if isinstance(step, Encode) and step.output is not None]

    def kernel_counts(self) -> dict[str, int]:
        """How often `main` calls each kind of kernel."""
        names = ["float" if isinstance(call, Compute) else call.name for call in self.calls]
        entered = sum(self._is_entered(number) for number in range(len(self.program.inputs)))
        return dict(Counter([*["quantize"] * entered, *["arrive"] * len(self.program.raw), *names, "finish"]))

    def _is_entered(self, number: int) -> bool:
        """Something reads the codes of an input, or its integers."""
        return self.program.buffers[number].quantized or any(number in step.inputs for step in self.program.steps)

    def _function(
        self, name: str, entries: list[moves.Entry], result: Callable[[_Values], Any],
        taken: Sequence[int] = (),
    ) -> None:
        """Add a function of the inputs, and of codes that take the place of the tensors `taken` once they are computed.

        `result` makes what the function returns.
        """
        from tvm import relax

        near = [moves.enter_call(self.program, number, self.places[number], self.e) for number in taken]
        given = [relax.Var(f"x{number}" if number else "x", _tensor_type(entry.given.shape, entry.given.kind))
                 for number, entry in enumerate([*entries, *near])]
        codes = {number: (entry.call, x) for number, entry, x in zip(taken, near, given[len(entries):], strict=True)}

        def taken_over(values: _Values, number: int) -> None:
            values.own[number] = values.read[number]
            values.read[number] = self._call(codes[number][0], [codes[number][1]])

        with self._builder.function(name, given):
            with self._builder.dataflow():
                values = _Values({number: self._call(entry.call, [x])
                                  for number, (entry, x) in enumerate(zip(entries, given[:len(entries)], strict=True))
                                  if self._is_entered(number)})
                for number in [number for number in values.read if number in codes]:
                    taken_over(values, number)
                in_float = {number: self._call(moves.arrive_call(self.program.floats[number]), [given[place]])
                            for number, place in self.program.raw.items()}
                for place, (step, call) in enumerate(zip(self.program.steps, self.calls, strict=True)):
                    reads = [in_float[number] for number in step.reads] if isinstance(step, FloatStep) else []
                    if isinstance(call, Compute):
                        value = self._compute(call, reads)
                    else:
                        value = self._call(call, [*(values.read[number] for number in call.inputs), *reads])
                    if isinstance(step, FloatStep) and step.writes is not None:
                        in_float[step.writes] = value
                    elif step.output is None:
                        values.leaving[place] = value
                    else:
                        values.read[step.output] = value
                    if step.output in codes:
                        taken_over(values, step.output)
                output = self._builder.emit_output(result(values))
            self._builder.emit_func_output(output)

    def _logits(self, values: _Values) -> Any:
        padded = [call.shape[0] for place in values.leaving if isinstance(call := self.calls[place], Call)]
        steps = [self.program.steps[place] for place in values.leaving]
        return self._call(moves.finish_call(steps, padded, self.program), [*values.leaving.values()])

    def _everything(self, values: _Values) -> Any:
        from tvm import relax

        found = [
            self._call(moves.leave_call(number, self.places[number]), [values.own.get(number, values.read[number])])
            for number in self.traced
        ]
        return relax.Tuple([*found, self._logits(values)])

    def _call(self, call: Call, inputs: list[Any]) -> Any:
        from tvm import relax

        constants = [self._constant(array) for array in call.constants]
        arguments = relax.Tuple([*inputs, *constants])
        kind = _tensor_type(call.shape, call.kind)
        return self._builder.emit(relax.call_tir(self._kernel(call), arguments, kind))

    def _compute(self, step: Compute, reads: list[Any]) -> Any:
        """A call of the function that computes a float operator."""
        from tvm import relax

        if step.call not in self._functions:
            self._functions[step.call] = self._builder.add_func(function_of(step.call), f"float_{len(self._functions)}")
        arguments = [*reads, *map(self._constant, step.parameters)]
        return self._builder.emit(relax.Call(self._functions[step.call], arguments))

    def _kernel(self, call: Call) -> Any:
        from tvm_ffi import StructuralKey

        key = StructuralKey(call.kernel)
        if key not in self._kernels:
            name = f"{call.name}_{len(self._kernels)}"
            self._kernels[key] = self._builder.add_func(call.kernel.with_attr("global_symbol", name), name)
        return self._kernels[key]

    def _constant(self, array: np.ndarray) -> Any:
        from tvm import relax

        key = f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
        if key not in self._constants:
            self._constants[key] = relax.const(np.array(array, order="C"), array.dtype.name)
        return self._constants[key]


def _tensor_type(shape: Any, kind: str) -> Any:
    """Relax's type; its annotations leave out that a shape may be integers."""
    from tvm import relax

    return relax.TensorType(shape, kind)
