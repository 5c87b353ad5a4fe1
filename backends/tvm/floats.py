"""Float operators as functions of a module: TVM's own importer reads each from PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from isobit.backends.fixed_point.floats.steps import FloatCall
from isobit.pipeline.errors import first_line
from isobit.pipeline.quiet import quiet

KEPT = 1024  # calls that are remembered: a plan is checked, then emitted
COMPILERS = "tvm.contrib."  # names of functions that only the compiler's library has


@functools.lru_cache(KEPT)
def refusal(call: FloatCall) -> str:
    """Why TVM cannot read a call, or an empty string."""
    found = function_of(call)
    return found if isinstance(found, str) else _lacking(found)


def _lacking(function: Any) -> str:
    """Why a device's runtime cannot run a function: it calls what only the compiler's library has, as sorts do."""
    from tvm import IRModule, relax, target

    module = IRModule({"main": function.with_attr("global_symbol", "main")})
    with target.Target({"kind": "llvm"}):
        module = relax.backend.DispatchSortScan()(module)  # pyright: ignore[reportCallIssue] - stubs lack `__call__`
        module = relax.transform.LegalizeOps()(module)
    found = next((name for name in _called_by_name(module) if name.startswith(COMPILERS)), "")
    return f"TVM's runtime for devices lacks {found}" if found else ""


def _called_by_name(module: Any) -> list[str]:
    """The functions of the runtime's registry that a lowered module names."""
    from tvm import ir, relax
    from tvm_ffi import structural_walk

    names: list[str] = []
    for function in module.functions.values():
        structural_walk(function, [
            (relax.ExternFunc, lambda found: names.append(str(found.global_symbol))),
            (ir.StringImm, lambda found: names.append(str(found.value))),
        ])
    return names


@functools.lru_cache(KEPT)
def function_of(call: FloatCall) -> Any:
    """The Relax function of a call, from its arguments to its value; a text that says why there is none."""
    from tvm.relax.frontend.torch import from_exported_program

    samples = tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in call.arguments)
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(fx.GraphModule({}, call.graph), samples)
            module = from_exported_program(exported, unwrap_unit_return_tuple=True, custom_convert_map=_converters())
    except Exception as error:  # whatever stops either: the operator has no form in TVM that it knows
        return f"TVM's importer cannot read it ({first_line(error)})"
    functions = {found.name_hint: function for found, function in module.functions_items()}
    if list(functions) != ["main"]:
        return "TVM's importer makes several functions of it"
    return functions["main"].without_attr("global_symbol")


def _converters() -> dict[str, Callable[[fx.Node, Any], Any]]:
    """Operators that the importer lacks, or of which it makes something else."""
    return {"amax.default": _largest, "amin.default": _least, "upsample_nearest2d.vec": _nearest,
            "layer_norm.default": _normalized, "exp2.default": _power_of_two}


def _largest(node: fx.Node, importer: Any) -> Any:
    return _reduced(node, importer, "max")


def _least(node: fx.Node, importer: Any) -> Any:
    return _reduced(node, importer, "min")


def _reduced(node: fx.Node, importer: Any, name: str) -> Any:
    from tvm import relax

    arguments = [*node.args, *[None] * 2][:3]
    axes = node.kwargs.get("dim", arguments[1]) or None
    keep = bool(node.kwargs.get("keepdim", arguments[2]))
    return importer.block_builder.emit(getattr(relax.op, name)(importer.env[node.args[0]], axes, keepdims=keep))


def _power_of_two(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    given: Any = node.args[0]
    return importer.block_builder.emit(relax.op.power(relax.const(2.0, "float32"), importer.env[given]))


def _normalized(node: fx.Node, importer: Any) -> Any:
    """The variance from differences to the mean; TVM's own, a difference of means, is off where the mean is large."""
    from tvm import relax

    emit, op = importer.block_builder.emit, relax.op
    x, sizes, weight, bias, eps = [*node.args, *[None, None, 1e-5][len(node.args) - 2:]][:5]
    axes = list(range(-len(sizes), 0))
    apart = emit(op.subtract(importer.env[x], emit(op.mean(importer.env[x], axes, keepdims=True))))
    variance = emit(op.mean(emit(op.multiply(apart, apart)), axes, keepdims=True))
    value = emit(op.multiply(apart, emit(op.rsqrt(emit(op.add(variance, relax.const(eps, "float32")))))))
    for operand, join in ((weight, op.multiply), (bias, op.add)):
        value = value if operand is None else emit(join(value, importer.env[operand]))
    return value


def _nearest(node: fx.Node, importer: Any) -> Any:
    """Pixel floor(place * old / new), as PyTorch; the importer's own rounds otherwise.

    With a stated scale that is not new / old, pixel floor(place / scale).
    """
    from tvm import relax

    given: Any = node.args[0]
    old = [int(size) for size in given.meta["val"].shape[2:]]
    sizes: list[Any] = [int(size) for size in node.meta["val"].shape[2:]]
    scales: Any = node.kwargs.get("scale_factors", [*node.args, None, None][2])
    stated = [_nearest_places(*axis) for axis in zip(old, sizes, scales or [None, None], strict=True)]
    if stated != [_nearest_places(*axis) for axis in zip(old, sizes, [None, None], strict=True)]:
        value = importer.env[given]
        for axis, places in enumerate(stated, 2):
            value = importer.block_builder.emit(relax.op.take(value, relax.const(np.array(places), "int64"), axis))
        return value
    return importer.block_builder.emit(relax.op.image.resize2d(
        importer.env[given], relax.ShapeExpr(sizes), layout="NCHW", method="nearest_neighbor",
        coordinate_transformation_mode="asymmetric", rounding_method="floor",
    ))


def _nearest_places(old: int, new: int, scale: float | None) -> list[int]:
    """The pixel that PyTorch takes for each of `new` along an axis of `old`."""
    pixels = torch.arange(old, dtype=torch.float32).reshape(1, 1, old)
    return torch.ops.aten.upsample_nearest1d(pixels, [new], scale).flatten().int().tolist()
