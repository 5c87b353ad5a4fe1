"""A program as one TVM module: kernels without duplicates, constants, and Relax functions that call them in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

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
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.instructions.base import InstructionSet
from isobit.backends.tvm.instructions.x86 import X86
from isobit.backends.tvm.kernels import moves, pointwise
from isobit.backends.tvm.kernels.conv import conv_call
from isobit.backends.tvm.kernels.depthwise import depthwise_call, is_depthwise
from isobit.backends.tvm.kernels.kernel import Call
from isobit.backends.tvm.kernels.layout import Place, plan_places
from isobit.backends.tvm.kernels.winograd import is_winograd, winograd_call

if TYPE_CHECKING:
    from tvm.ir import GlobalVar
    from tvm_ffi import StructuralKey

LOGITS = -1  # number of the padded logits among a function's values


def step_call(step: Step, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The kernel of one step."""
    match step:
        case Conv() if isinstance(e, X86) and is_depthwise(step):
            return depthwise_call(step, program, places, e)
        case Conv() if is_winograd(step, program, places, e):
            return winograd_call(step, program, places, e)
        case Conv():
            return conv_call(step, program, places, e)
        case Sum():
            return pointwise.sum_call(step, program, places, e)
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
        case Dequantize(parts=()):
            return moves.dequantize_call(step, program, places, e)
        case Dequantize():
            return moves.dequantize_parts_call(step, program, places, e)
    raise TypeError(f"no kernel for {type(step).__name__}")


class ModuleBuilder:
    """Collects kernels and builds the functions `main`, `codes` and `trace`.

    Args:
        program: the network.
        flavour: instruction set of the kernels.
    """

    def __init__(self, program: Program, flavour: str) -> None:
        from tvm import relax

        self.program, self.e = program, instruction_set(flavour)
        self.places = plan_places(program)
        self.calls = [step_call(step, program, self.places, self.e) for step in program.steps]
        self._builder = relax.BlockBuilder()
        self._kernels: dict[StructuralKey, GlobalVar] = {}
        self._constants: dict[bytes, Any] = {}

    def build(self) -> Any:
        """The IRModule."""
        program, place = self.program, self.places[0]
        image = ((1, *program.input.nchw), "float32")
        codes = ((1, place.height, place.width, place.channels), "uint8")
        self._function("main", image, moves.quantize_call(program, place, self.e), self._logits)
        self._function("codes", codes, moves.enter_call(program, place, self.e), self._logits)
        self._function("trace", image, moves.quantize_call(program, place, self.e), self._everything)
        return self._builder.get()

    @property
    def traced(self) -> list[int]:
        """Numbers of the tensors that `trace` returns: the quantized ones in execution order."""
        order = [0, *(step.output for step in self.program.steps if step.output is not None)]
        return [number for number in order if self.program.buffers[number].quantized]

    def kernel_counts(self) -> dict[str, int]:
        """How often `main` calls each kind of kernel."""
        return dict(Counter(["quantize", *(call.name for call in self.calls), "finish"]))

    def _function(
        self, name: str, argument: tuple[tuple[int, ...], str], first: Call, result: Callable[[dict[int, Any]], Any]
    ) -> None:
        from tvm import relax

        x = relax.Var("x", _tensor_type(*argument))
        with self._builder.function(name, [x]):
            with self._builder.dataflow():
                values = {0: self._call(first, [x])}
                for step, call in zip(self.program.steps, self.calls, strict=True):
                    number = LOGITS if step.output is None else step.output
                    values[number] = self._call(call, [values[i] for i in call.inputs])
                output = self._builder.emit_output(result(values))
            self._builder.emit_func_output(output)

    def _logits(self, values: dict[int, Any]) -> Any:
        last = next(call for step, call in zip(self.program.steps, self.calls, strict=True) if step.output is None)
        return self._call(moves.finish_call(LOGITS, last.shape[0], self.program), [values[LOGITS]])

    def _everything(self, values: dict[int, Any]) -> Any:
        from tvm import relax

        found = [
            self._call(moves.leave_call(number, self.places[number]), [values[number]])
            for number in self.traced
        ]
        return relax.Tuple([*found, self._logits(values)])

    def _call(self, call: Call, inputs: list[Any]) -> Any:
        from tvm import relax

        constants = [self._constant(array) for array in call.constants]
        arguments = relax.Tuple([*inputs, *constants])
        kind = _tensor_type(call.shape, call.kind)
        return self._builder.emit(relax.call_tir(self._kernel(call), arguments, kind))

    def _kernel(self, call: Call) -> Any:
        from tvm_ffi import StructuralKey

        key = StructuralKey(call.kernel)
        if key not in self._kernels:
            name = f"{call.name}_{len(self._kernels)}"
            self._kernels[key] = self._builder.add_func(call.kernel.with_attr("global_symbol", name), name)
        return self._kernels[key]

    def _constant(self, array: np.ndarray) -> Any:
        from tvm import relax

        key = array.dtype.str.encode() + array.tobytes()
        if key not in self._constants:
            self._constants[key] = relax.const(np.ascontiguousarray(array), array.dtype.name)
        return self._constants[key]


def _tensor_type(shape: Any, kind: str) -> Any:
    """Relax's type; its annotations leave out that a shape may be integers."""
    from tvm import relax

    return relax.TensorType(shape, kind)
