"""One function per operator: ATen call in, ONNX node out. Keyword arguments are the ATen schema's names.

Tensors arrive as ONNX values, everything else as the literals of the call. The same functions write an operator that
runs in float, the middle of a DQ -> operator -> Q pattern, and a layout operator directly on uint8 codes.
Operators of one tensor and those that move elements are rows of `pipeline.operators`; all others stand here.
Only operators whose name says `_scaled`, `_3d` and so on (pipeline.graph.op_name) come in the form that the name says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from isobit.backends.execution.layer_sums import explicit_padding
from isobit.backends.fixed_point.numbers import pool_divisors, window_of
from isobit.backends.onnx import by_torch
from isobit.backends.onnx.graph_writer import GraphWriter
from isobit.pipeline.graph.nodes import (
    TUPLE_ENTRY,
    bound_args,
    computes_size,
    known_sizes,
    op_name,
    pair,
    source_of,
    tensor_shape,
)
from isobit.pipeline.operators.index_map import OUTSIDE, axis_maps, index_map
from isobit.pipeline.operators.moves import MOVES, MoveOperator
from isobit.pipeline.operators.unary import UNARY, operand

if TYPE_CHECKING:
    import onnx_ir as ir

Emitter = Callable[..., "ir.Value"]


class _Operands:
    """What an emitter may ask besides its arguments: the writer, the call's shapes, the name of its result."""

    def __init__(self, writer: GraphWriter, node: fx.Node, name: str | None) -> None:
        self.writer, self.node, self.name = writer, node, name

    def call(self, op: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None) -> ir.Value:
        """The last node of the operator: it carries the result's name."""
        return self.writer.call(op, inputs, attributes, name=self.name)

    def inner(self, op: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None) -> ir.Value:
        """A node before the last."""
        return self.writer.call(op, inputs, attributes)

    def ints(self, values: Sequence[int] | np.ndarray) -> ir.Value:
        return self.writer.constant(np.asarray(values, np.int64))

    def scalar(self, value: float) -> ir.Value:
        return self.writer.constant(np.asarray(value, np.float32))

    def floats(self, values: Sequence[float]) -> ir.Value:
        return self.writer.constant(np.asarray(values, np.float32))

    def operand(self, value: ir.Value | float) -> ir.Value:
        """A tensor, or a number made one."""
        return self.scalar(value) if isinstance(value, int | float) else value

    @property
    def before(self) -> tuple[int | None, ...]:
        """Shape of the first tensor argument."""
        return tensor_shape(self.node.all_input_nodes[0])

    @property
    def after(self) -> tuple[int | None, ...]:
        """Shape of the result."""
        return tensor_shape(self.node)

    @property
    def rank(self) -> int:
        """Rank of the first tensor argument."""
        return len(self.before)


def emit_operator(
    writer: GraphWriter, node: fx.Node, values: Callable[[fx.Node], ir.Value], *, name: str | None = None,
    **changed: Any,
) -> ir.Value:
    """Write one ATen call.

    Args:
        values: the ONNX value of a node that the call reads.
        name: of the result; a short one where None.
        changed: arguments that take the place of the call's own.
    """
    if is_written_by_torch(node):
        return by_torch.emit(writer, node, values, name)
    operands, row = _Operands(writer, node, name), UNARY.get(op_name(node))
    if op_name(node) == TUPLE_ENTRY:
        several: Any = values(source_of(node))
        return several[node.args[1]]
    if row is not None:
        x = values(operand(node))
        return row.write(operands, x, _with_values(row.arguments(node), values))
    move = MOVES.get(op_name(node))
    if move is None:
        return EMITTERS[op_name(node)](operands, **{**_with_values(bound_args(node), values), **changed})
    moved = node.all_input_nodes[0]
    source = values(moved)  # once: each call writes operators of its own
    arguments = {**_with_values(bound_args(node), lambda read: source if read is moved else values(read)), **changed}
    if move.onnx is not None:
        return move.onnx(operands, source, arguments)
    return gather(operands, source, index_map(node), arguments.get(move.fill) or 0.0)


def _with_values(arguments: Any, values: Callable[[fx.Node], Any]) -> Any:
    """Arguments of a call, values in the place of nodes."""
    return map_arg(arguments, values)


# Between DequantizeLinear and QuantizeLinear ONNX Runtime rounds their float weights to int8, one scale for the tensor
# (WeightBiasQuantization, at every level from `basic` on); Conv and Gemm have integer weights of ours. A product of two
# tensors becomes one of integers.
ROUNDED_BY_RUNTIME = frozenset({"conv_transpose2d", "matmul", "matmul_of_parameter", "matmul_of_vector"})


def changes_between_codes(node: fx.Node) -> bool:
    """A session may compute something else where the call stands between DequantizeLinear and QuantizeLinear."""
    return op_name(node) in ROUNDED_BY_RUNTIME or is_written_by_torch(node)


def refusal(node: fx.Node) -> str:
    """Why the node cannot be written, or an empty string."""
    if not is_written_by_torch(node):
        return ""
    own, theirs = _own_refusal(node), by_torch.refusal(node)
    return theirs and f"{own}, and {theirs}"


def is_written_by_torch(node: fx.Node) -> bool:
    """No function of this file writes the call; arithmetic on sizes, and entries of tuples, are written with others."""
    return not computes_size(node) and op_name(node) != TUPLE_ENTRY and bool(_own_refusal(node))


def _own_refusal(node: fx.Node) -> str:
    """Why no function of this file writes the call."""
    name = op_name(node)
    if not node.meta.get("dtype", torch.float32).is_floating_point or any(map(computes_size, node.all_input_nodes)):
        return f"{name} computes with integers"
    if name in UNARY:
        return ""
    if name in MOVES:
        return _check_move(node, MOVES[name])
    if name not in EMITTERS:
        return f"there is no ONNX emitter for {name}"
    check = CHECKS.get(name)
    return check(node, bound_args(node)) if check else ""


def _binary(op: str) -> Emitter:
    def emit(e: _Operands, self: ir.Value, other: ir.Value | float, alpha: float = 1) -> ir.Value:
        right = e.operand(other)
        if alpha != 1:
            right = e.inner("Mul", [right, e.scalar(alpha)])
        return e.call(op, [e.operand(self), right])

    return emit


def rsub(e: _Operands, self: ir.Value, other: ir.Value | float, alpha: float = 1) -> ir.Value:
    """`other - alpha * self`."""
    right = self if alpha == 1 else e.inner("Mul", [self, e.scalar(alpha)])
    return e.call("Sub", [e.operand(other), right])


def conv2d(
    e: _Operands, input: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Any, padding: Any, dilation: Any,
    groups: int,
) -> ir.Value:
    """Conv; ONNX reads the kernel size from the weight."""
    kernel = known_sizes(tensor_shape(bound_args(e.node)["weight"])[2:])
    attributes = conv_attributes(kernel, stride, padding, dilation, groups)
    return e.call("Conv", [input, weight, bias], attributes)


def conv_attributes(kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    """Attributes of Conv and QLinearConv; ONNX's defaults are left out, the kernel's shape is the weight's."""
    attributes: dict[str, Any] = {}
    if any(pads := explicit_padding(padding, tuple(kernel), dilation)):
        attributes["pads"] = list(pads)
    if pair(stride) != (1, 1):
        attributes["strides"] = list(pair(stride))
    if pair(dilation) != (1, 1):
        attributes["dilations"] = list(pair(dilation))
    if groups != 1:
        attributes["group"] = groups
    return attributes


def conv_transpose2d(
    e: _Operands, input: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Any, padding: Any,
    output_padding: Any, groups: int, dilation: Any,
) -> ir.Value:
    """ConvTranspose."""
    attributes = {
        "strides": list(pair(stride)), "pads": list(pair(padding)) * 2, "output_padding": list(pair(output_padding)),
        "dilations": list(pair(dilation)), "group": groups,
    }
    return e.call("ConvTranspose", [input, weight, bias], attributes)


def linear(e: _Operands, input: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """Gemm with the weight as torch stores it; MatMul and Add for inputs of more than two axes in float."""
    if e.rank == 2:
        return e.call("Gemm", [input, weight, bias], {"transB": 1})
    product = [input, e.inner("Transpose", [weight], {"perm": [1, 0]})]
    return e.call("MatMul", product) if bias is None else e.call("Add", [e.inner("MatMul", product), bias])


def mean(e: _Operands, self: ir.Value, **_: Any) -> ir.Value:
    """The global average as the pool that has an integer kernel; ReduceMean has none."""
    return e.call("GlobalAveragePool", [self])


def mean_over_dims(e: _Operands, self: ir.Value, dim: Sequence[int] | None, keepdim: bool, **_: Any) -> ir.Value:
    """ReduceMean over any axes."""
    axes = e.ints(dim) if dim else None
    return e.call("ReduceMean", [self, axes], {"keepdims": int(keepdim)})


def avg_pool2d(
    e: _Operands, self: ir.Value, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> ir.Value:
    """AveragePool; over zeros where a window is cut off, then a factor for each position.

    ONNX Runtime divides by another number than torch in such a window, or reads beyond the map.
    """
    if not _is_cut_off(e.node):
        return e.call("AveragePool", [self], average_attributes(kernel_size, stride, padding, count_include_pad))
    kernel, strides, (top, left, bottom, right), _ = window_of(e.node)
    border = [e.ints([0, 0, top, left, 0, 0, bottom, right]), e.scalar(0.0)]
    padded = e.inner("Pad", [self, *border], {"mode": "constant"})
    pooled = e.inner("AveragePool", [padded], average_attributes(kernel, strides, 0, count_include_pad))
    factors = math.prod(kernel) / pool_divisors(e.node)
    return e.call("Mul", [pooled, e.writer.constant(factors.astype(np.float32))])


def average_attributes(kernel_size: Any, stride: Any, padding: Any, count_include_pad: bool) -> dict[str, Any]:
    """Attributes of AveragePool and QLinearAveragePool."""
    attributes: dict[str, Any] = {
        "kernel_shape": list(pair(kernel_size)), "strides": list(pair(stride or kernel_size)),
    }
    if any(pair(padding)):
        attributes |= {"pads": list(pair(padding)) * 2, "count_include_pad": int(count_include_pad)}
    return attributes


def max_pool2d(
    e: _Operands, self: ir.Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> ir.Value:
    """MaxPool, on codes or floats; what `ceil_mode` reads beyond the padding is said as padding, if it is not too much.

    A window that would begin there is none in torch, and is one for those who infer the shapes of a file.
    """
    kernel, said = list(pair(kernel_size)), list(pair(padding)) * 2
    pads = [*window_of(e.node)[2]] if ceil_mode else said
    taken = all(pad < size for pad, size in zip(pads, kernel * 2, strict=True))
    attributes = {
        "kernel_shape": kernel, "strides": list(pair(stride or kernel_size)), "pads": pads if taken else said,
        "dilations": list(pair(dilation)), "ceil_mode": int(not taken),
    }
    return e.call("MaxPool", [self], attributes)


def cat(e: _Operands, tensors: Sequence[ir.Value], dim: int) -> ir.Value:
    """Concat."""
    return e.call("Concat", tensors, {"axis": dim})


def gather(e: _Operands, source: ir.Value, index: np.ndarray, fill: ir.Value | float) -> ir.Value:
    """Gather along each axis that moves apart from the others; else of all elements of a sample at once.

    Args:
        index: as `index_map` gives it.
        fill: what stands where it says `OUTSIDE`.
    """
    maps = axis_maps(index, _single(e.before))
    if maps is not None:
        moved = [axis for axis, places in enumerate(maps) if not np.array_equal(places, range(e.before[axis] or 1))]
        for axis in moved:
            write = e.call if axis == moved[-1] else e.inner
            source = write("Gather", [source, e.ints(maps[axis])], {"axis": axis})
        return source if moved else e.call("Identity", [source])
    flat = e.inner("Reshape", [source, e.ints([-1, math.prod(known_sizes(e.before[1:]))])])
    flat = e.inner("Gather", [flat, e.ints(np.maximum(index, 0).reshape(-1))], {"axis": 1})
    if (index == OUTSIDE).any():
        inside = e.writer.constant(index.reshape(1, -1) != OUTSIDE)
        flat = e.inner("Where", [inside, flat, e.operand(fill)])
    return e.call("Reshape", [flat, e.ints([-1, *known_sizes(e.after[1:])])])


def _single(shape: Sequence[int | None]) -> tuple[int, ...]:
    """A batch of one."""
    return tuple(1 if size is None else size for size in shape)


def clamp(e: _Operands, self: ir.Value, min: float | None, max: float | None) -> ir.Value:
    """Clip at one constant or two."""
    ends = [None if end is None else e.scalar(end) for end in (min, max)]
    return e.call("Clip", [self, *ends])


def softmax(e: _Operands, self: ir.Value, dim: int, **_: Any) -> ir.Value:
    """Softmax as exp(log_softmax): ONNX Runtime fuses Softmax between Q and DQ into a kernel that overflows.

    QLinearSoftmax (1.31) was off by up to 255 steps, and it has no such kernel for LogSoftmax.
    """
    return e.call("Exp", [e.inner("LogSoftmax", [self], {"axis": dim})])


def layer_norm(
    e: _Operands, input: ir.Value, normalized_shape: Sequence[int], weight: ir.Value | None, bias: ir.Value | None,
    eps: float, **_: Any,
) -> ir.Value:
    """LayerNormalization over the last axes."""
    scale = weight if weight is not None else e.writer.constant(np.ones(normalized_shape, np.float32))
    return e.call("LayerNormalization", [input, scale, bias], {"axis": -len(normalized_shape), "epsilon": float(eps)})


def matmul(e: _Operands, self: ir.Value, other: ir.Value) -> ir.Value:
    """MatMul."""
    return e.call("MatMul", [self, other])


EMITTERS: dict[str, Emitter] = {
    **{name + form: emit for name, emit in {
        "add": _binary("Add"), "mul": _binary("Mul"), "sub": _binary("Sub"), "rsub": rsub, "div": _binary("Div"),
    }.items() for form in ("", "_scaled", "_parameter")},
    "conv2d": conv2d, "conv2d_dynamic": conv2d, "conv_transpose2d": conv_transpose2d,
    "linear": linear, "linear_dynamic": linear,
    "mean": mean, "mean_over_dims": mean_over_dims, "avg_pool2d": avg_pool2d, "max_pool2d": max_pool2d,
    "cat": cat, "clamp": clamp, "softmax": softmax,
    "layer_norm": layer_norm, "matmul": matmul, "matmul_of_parameter": matmul, "matmul_of_vector": matmul,
}


def _check_move(node: fx.Node, row: MoveOperator) -> str:
    before, after = tensor_shape(node.all_input_nodes[0]), tensor_shape(node)
    free = [axis for axis, size in enumerate(before) if size is None]
    if row.onnx is not None or (free == [0] and after[0] is None) or axis_maps(index_map(node), _single(before)):
        return ""
    return f"{op_name(node)} over axes of which one is the batch"


def _check_average(node: fx.Node, arguments: dict[str, Any]) -> str:
    if arguments["divisor_override"] is not None:
        return "avg_pool2d with a divisor of its own"
    return ""


def _is_cut_off(pool: fx.Node) -> bool:
    """Whether a window reads beyond the padding, as the last ones may with ceil_mode."""
    padding = window_of(pool)[2]
    return any(end > before for end, before in zip(padding[2:], pair(bound_args(pool)["padding"]), strict=True))


def without_kernel(node: fx.Node) -> str:
    """Why no integer kernel of ONNX Runtime computes this call of an operator that has one, or an empty string."""
    if op_name(node) == "avg_pool2d" and _is_cut_off(node):
        return "ONNX Runtime has no integer kernel for an average whose last window is cut off (ceil_mode)"
    return ""


def _check_dtype(node: fx.Node, arguments: dict[str, Any]) -> str:
    return "" if arguments.get("dtype") is None else f"{op_name(node)} into another type"


def _check_bounds(node: fx.Node, arguments: dict[str, Any]) -> str:
    tensors = [name for name in ("min", "max") if isinstance(arguments.get(name), fx.Node)]
    return f"clamp with a tensor as {tensors[0]}" if tensors else ""


CHECKS: dict[str, Callable[[fx.Node, dict[str, Any]], str]] = {
    "avg_pool2d": _check_average, "clamp": _check_bounds, "softmax": _check_dtype, "mean_over_dims": _check_dtype,
}
