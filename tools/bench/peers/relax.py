"""TVM's own ways of a network: its import of our QDQ file, and our program in Relax's integer operators, untuned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.fixed_point.program import Conv, Dequantize, GlobalAverage, MaxPool, Move, Program, Sum


def module_caller(path: Path, sample: np.ndarray) -> Callable[[], object]:
    """`main` of a compiled module, from float images to float logits as in ONNX Runtime."""
    import tvm

    return _calls(tvm.runtime.load_module(str(path)), sample)


def _calls(module: Any, sample: np.ndarray) -> Callable[[], object]:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(module, tvm.cpu())
    argument = tvm.runtime.tensor(sample)
    run = machine["main"]
    return lambda: run(argument)


def _built(module: Any) -> Any:
    """A Relax module through TVM's default pipeline for CPUs, for the processor at hand."""
    import tvm
    from tvm import relax

    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    return relax.build(module, target, relax_pipeline=relax.backend.cpu_generic.get_default_pipeline(target))


def imported_caller(path: Path, sample: np.ndarray) -> Callable[[], object]:
    """Our QDQ file through TVM's ONNX front end, which computes it in float."""
    import onnx
    from onnx import inliner
    from tvm.relax.frontend.onnx import from_onnx

    model = inliner.inline_local_functions(onnx.load(path))
    module = from_onnx(model, shape_dict={"input": list(sample.shape)}, keep_params_in_input=False)
    return _calls(_built(module), sample)


def relax_caller(program: Program, sample: np.ndarray) -> Callable[[], object]:
    """Our program in Relax's own integer operators: conv2d to int32, a 64-bit multiplier and shift."""
    return _calls(_built(relax_module(program, sample.shape)), sample)


def relax_module(program: Program, shape: tuple[int, ...]) -> Any:
    """`main(x: float32 NCHW) -> logits`, for the steps that ResNet-20 has."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        steps = relax.op.round(relax.op.divide(x, _constant(program.input.scale, "float32")))
        codes = relax.op.clip(relax.op.add(steps, _constant(program.input.zero_point, "float32")), 0, 255)
        values = {0: builder.emit(relax.op.astype(codes, "uint8"))}
        for step in program.steps:
            result = builder.emit(_relax_step(step, program, [values[number] for number in step.inputs]))
            values[-1 if step.output is None else step.output] = result
        builder.emit_func_output(values[-1])
    return builder.get()


def _relax_step(step: Any, program: Program, inputs: list[Any]) -> Any:
    from tvm import relax

    centered = [_centered(value, program.buffers[number].zero_point)
                for value, number in zip(inputs, step.inputs, strict=True)]
    match step:
        case Conv():
            return _relax_conv(step, program, centered)
        case Sum():
            return _rescaled(step, centered)
        case GlobalAverage():
            return _rescaled(step, [relax.op.sum(relax.op.astype(centered[0], "int32"), [2, 3], keepdims=True)])
        case MaxPool():
            window = step.window
            return relax.op.nn.max_pool2d(inputs[0], window.kernel, window.stride, window.padding, window.dilation)
        case Move() if step.index is None:
            return _relax_move(step, program, inputs[0])
        case Dequantize(parts=()):
            return relax.op.multiply(relax.op.astype(centered[0], "float32"),
                                     _constant(program.buffers[step.inputs[0]].scale, "float32"))
    raise TypeError(f"no Relax operator for {type(step).__name__}")


def _centered(value: Any, zero_point: int) -> Any:
    """Codes minus their zero point: uint8 as they are where that is 0, else int16."""
    from tvm import relax

    if zero_point == 0:
        return value
    return relax.op.subtract(relax.op.astype(value, "int16"), _constant(zero_point, "int16"))


def _relax_conv(step: Conv, program: Program, centered: list[Any]) -> Any:
    from tvm import relax

    codes = np.ascontiguousarray(step.weights.codes.transpose(0, 3, 1, 2))
    # The same type on both sides where codes have become int16; uint8 with int8 everywhere else.
    weights = relax.const(codes.astype(np.int16) if program.buffers[step.inputs[0]].zero_point else codes)
    total = relax.op.nn.conv2d(
        centered[0], weights, step.window.stride, step.window.padding, step.window.dilation, step.groups,
        out_dtype="int32",
    )
    total = relax.op.add(total, relax.const(step.bias.reshape(1, -1, 1, 1), "int32"))
    if step.rescale is None:
        scale = relax.const(step.logit_scale.reshape(1, -1, 1, 1), "float32")
        return relax.op.multiply(relax.op.astype(total, "float32"), scale)
    return _rescaled(step, [total, *centered[1:]])


def _rescaled(step: Any, values: list[Any]) -> Any:
    from tvm import relax

    total = _constant(step.rescale.offset, "int64")
    for term, value in zip(step.rescale.terms, values, strict=True):
        factor = term.multiplier.astype(np.int64).reshape(1, -1, 1, 1) << term.lift
        product = relax.op.multiply(relax.op.astype(value, "int64"), relax.const(factor, "int64"))
        total = relax.op.add(product, total)
    codes = relax.op.clip(relax.op.right_shift(total, _constant(step.rescale.shift, "int64")), step.low, step.high)
    return relax.op.astype(codes, "uint8")


def _relax_move(step: Move, program: Program, x: Any) -> Any:
    from tvm import relax

    source, zero = program.buffers[step.inputs[0]], program.buffers[step.inputs[0]].zero_point
    channels = program.buffers[step.output].shape[2]
    known = step.channels[step.channels >= 0]
    first = int(np.flatnonzero(step.channels >= 0)[0])
    if step.origin != (0, 0) or not np.array_equal(known, np.arange(source.shape[2])):
        raise TypeError("a move that ResNet-20 does not have")
    moved = relax.op.strided_slice(x, [2, 3], [0, 0], list(source.shape[:2]), list(step.stride))
    after = channels - first - len(known)
    return relax.op.nn.pad(moved, [0, 0, first, after, 0, 0, 0, 0], pad_value=float(zero))


def _constant(value: float, kind: str) -> Any:
    from tvm import relax

    return relax.const(np.asarray(value, kind), kind)
