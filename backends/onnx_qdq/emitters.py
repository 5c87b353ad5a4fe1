"""One function per operator: ATen call in, ONNX node out. Keyword arguments are the ATen schema's names.

Tensors arrive as ONNX values, everything else as the literals of the call. The same functions write an operator that
runs in float, the middle of a DQ -> operator -> Q pattern, and a layout operator directly on uint8 codes.
Only operators whose name says `_scaled`, `_3d` and so on (pipeline.graph.op_name) come in the form that the name says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from backends.integer import explicit_padding
from backends.onnx_qdq.graph_writer import GraphWriter
from pipeline.graph import bound_args, is_constant, op_name, pair, tensor_shape

if TYPE_CHECKING:
    import onnx_ir as ir

Emitter = Callable[..., "ir.Value"]
INT64_MAX = np.iinfo(np.int64).max


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

    def ints(self, values: Sequence[int]) -> ir.Value:
        return self.writer.constant(np.asarray(values, np.int64))

    def scalar(self, value: float) -> ir.Value:
        return self.writer.constant(np.asarray(value, np.float32))

    def operand(self, value: ir.Value | float) -> ir.Value:
        """A tensor, or a number made one."""
        return self.scalar(value) if isinstance(value, int | float) else value

    @property
    def rank(self) -> int:
        """Rank of the first tensor argument."""
        return len(tensor_shape(self.node.all_input_nodes[0]))


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
    arguments = fx.node.map_arg(bound_args(node), values)
    return EMITTERS[op_name(node)](_Operands(writer, node, name), **{**arguments, **changed})


# Between DequantizeLinear and QuantizeLinear ONNX Runtime rounds their float weights to int8, one scale for the tensor
# (WeightBiasQuantization, at every level from `basic` on); Conv and Gemm have integer weights of ours.
ROUNDED_BY_RUNTIME = frozenset({"conv_transpose2d"})


def refusal(node: fx.Node) -> str:
    """Why the node cannot be written, or an empty string."""
    name = op_name(node)
    if name not in EMITTERS:
        return f"there is no ONNX emitter for {name}"
    check = CHECKS.get(name)
    return check(node, bound_args(node)) if check else ""


def _same_name(op: str) -> Emitter:
    def emit(e: _Operands, self: ir.Value, **_: Any) -> ir.Value:
        return e.call(op, [self])

    return emit


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
    kernel = tensor_shape(e.node.args[1])[2:]
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
    """Gemm with the weight as torch stores it; integer kernels exist for this form only."""
    return e.call("Gemm", [input, weight, bias], {"transB": 1})


def linear_nd(e: _Operands, input: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """MatMul and Add, for inputs of more than two dimensions."""
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
    """AveragePool."""
    return e.call("AveragePool", [self], average_attributes(kernel_size, stride, padding, count_include_pad))


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
    """MaxPool, on codes or floats."""
    attributes = {
        "kernel_shape": list(pair(kernel_size)), "strides": list(pair(stride or kernel_size)),
        "pads": list(pair(padding)) * 2, "dilations": list(pair(dilation)), "ceil_mode": int(ceil_mode),
    }
    return e.call("MaxPool", [self], attributes)


def cat(e: _Operands, tensors: Sequence[ir.Value], dim: int) -> ir.Value:
    """Concat."""
    return e.call("Concat", tensors, {"axis": dim})


def slice_(
    e: _Operands, self: ir.Value, dim: int, start: int | None, end: int | None, step: int
) -> ir.Value:
    """Slice with literal ends."""
    ends = INT64_MAX if end is None else min(end, INT64_MAX)
    return e.call("Slice", [self, e.ints([start or 0]), e.ints([ends]), e.ints([dim]), e.ints([step])])


def pad(
    e: _Operands, self: ir.Value, pad: Sequence[int], mode: str = "constant", value: ir.Value | float | None = None
) -> ir.Value:
    """Pad; torch lists the last axis first."""
    before, after = [0] * e.rank, [0] * e.rank
    for axis in range(len(pad) // 2):
        before[-1 - axis], after[-1 - axis] = pad[2 * axis], pad[2 * axis + 1]
    onnx_mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    fill = e.operand(value or 0.0) if onnx_mode == "constant" else None
    return e.call("Pad", [self, e.ints(before + after), fill], {"mode": onnx_mode})


def view(e: _Operands, self: ir.Value, **sizes: Any) -> ir.Value:
    """Reshape to literal sizes, -1 for the batch."""
    return e.call("Reshape", [self, e.ints(next(iter(sizes.values())))])


def permute(e: _Operands, self: ir.Value, dims: Sequence[int]) -> ir.Value:
    """Transpose."""
    return e.call("Transpose", [self], {"perm": [dim % len(dims) for dim in dims]})


def hardtanh(e: _Operands, self: ir.Value, min_val: float, max_val: float) -> ir.Value:
    """Clip at two constants."""
    return e.call("Clip", [self, e.scalar(min_val), e.scalar(max_val)])


def clamp(e: _Operands, self: ir.Value, min: float | None, max: float | None) -> ir.Value:
    """Clip at one constant or two."""
    ends = [None if end is None else e.scalar(end) for end in (min, max)]
    return e.call("Clip", [self, *ends])


def hardsigmoid(e: _Operands, self: ir.Value) -> ir.Value:
    """HardSigmoid with slope 1/6."""
    return e.call("HardSigmoid", [self], {"alpha": 1 / 6, "beta": 0.5})


def silu(e: _Operands, self: ir.Value) -> ir.Value:
    """x * sigmoid(x)."""
    return e.call("Mul", [self, e.inner("Sigmoid", [self])])


def gelu(e: _Operands, self: ir.Value, approximate: str) -> ir.Value:
    """GELU by its formula; the operator of this name is younger than the opset."""
    half = e.inner("Mul", [self, e.scalar(0.5)])
    if approximate == "none":
        inside = e.inner("Erf", [e.inner("Mul", [self, e.scalar(1 / math.sqrt(2))])])
    else:
        cube = e.inner("Mul", [e.inner("Pow", [self, e.scalar(3.0)]), e.scalar(0.044715)])
        inside = e.inner("Tanh", [e.inner("Mul", [e.inner("Add", [self, cube]), e.scalar(math.sqrt(2 / math.pi))])])
    return e.call("Mul", [half, e.inner("Add", [inside, e.scalar(1.0)])])


def leaky_relu(e: _Operands, self: ir.Value, negative_slope: float) -> ir.Value:
    """LeakyRelu."""
    return e.call("LeakyRelu", [self], {"alpha": float(negative_slope)})


def elu(e: _Operands, self: ir.Value, alpha: float, **_: Any) -> ir.Value:
    """Elu."""
    return e.call("Elu", [self], {"alpha": float(alpha)})


def prelu(e: _Operands, self: ir.Value, weight: ir.Value) -> ir.Value:
    """PRelu; its slopes broadcast along the channels."""
    slope = e.inner("Reshape", [weight, e.ints([-1] + [1] * (e.rank - 2))])
    return e.call("PRelu", [self, slope])


def softmax(e: _Operands, self: ir.Value, dim: int, **_: Any) -> ir.Value:
    """Softmax as exp(log_softmax): ONNX Runtime fuses Softmax between Q and DQ into a kernel that overflows.

    QLinearSoftmax (1.31) was off by up to 255 steps, and it has no such kernel for LogSoftmax.
    """
    return e.call("Exp", [e.inner("LogSoftmax", [self], {"axis": dim})])


def batch_norm(
    e: _Operands, input: ir.Value, weight: ir.Value, bias: ir.Value, running_mean: ir.Value, running_var: ir.Value,
    eps: float, **_: Any,
) -> ir.Value:
    """BatchNormalization of inference: one that could not be folded into a layer."""
    return e.call("BatchNormalization", [input, weight, bias, running_mean, running_var], {"epsilon": float(eps)})


def layer_norm(
    e: _Operands, input: ir.Value, normalized_shape: Sequence[int], weight: ir.Value | None, bias: ir.Value | None,
    eps: float, **_: Any,
) -> ir.Value:
    """LayerNormalization over the last axes."""
    scale = weight if weight is not None else e.writer.constant(np.ones(normalized_shape, np.float32))
    return e.call("LayerNormalization", [input, scale, bias], {"axis": -len(normalized_shape), "epsilon": float(eps)})


def matmul(e: _Operands, self: ir.Value, **other: ir.Value) -> ir.Value:
    """MatMul; of two computed matrices as Einsum: between Q and DQ sessions run a MatMul in integers of their own."""
    nodes, operands = list(e.node.args[:2]), [self, next(iter(other.values()))]
    ranks = [len(tensor_shape(node)) for node in nodes]
    if min(ranks) < 2 or any(map(is_constant, nodes)):
        return e.call("MatMul", operands)
    for place, missing in enumerate(max(ranks) - rank for rank in ranks):
        if missing:
            operands[place] = e.inner("Unsqueeze", [operands[place], e.ints(range(missing))])
    return e.call("Einsum", operands, {"equation": "...ij,...jk->...ik"})


def upsample_nearest(e: _Operands, input: ir.Value, **_: Any) -> ir.Value:
    """Resize that repeats pixels."""
    before, after = tensor_shape(e.node.args[0])[2:], tensor_shape(e.node)[2:]
    scales = np.asarray([1, 1, *(new / old for old, new in zip(before, after, strict=True))], np.float32)
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return e.call("Resize", [input, None, e.writer.constant(scales)], attributes)


EMITTERS: dict[str, Emitter] = {
    **{name: _same_name(op) for name, op in {
        "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hardswish": "HardSwish", "mish": "Mish", "exp": "Exp",
        "sqrt": "Sqrt", "abs": "Abs", "neg": "Neg", "erf": "Erf", "log": "Log", "floor": "Floor",
        "reciprocal": "Reciprocal", "softplus": "Softplus", "selu": "Selu",
    }.items()},
    **{name + form: _binary(op) for name, op in {"add": "Add", "mul": "Mul"}.items()
       for form in ("", "_constant", "_scaled")},
    "sub": _binary("Sub"), "rsub": rsub, "div": _binary("Div"),
    "conv2d": conv2d, "conv2d_dynamic": conv2d, "conv_transpose2d": conv_transpose2d,
    "linear": linear, "linear_3d": linear_nd, "linear_4d": linear_nd,
    "mean": mean, "mean_over_dims": mean_over_dims, "avg_pool2d": avg_pool2d, "max_pool2d": max_pool2d,
    "cat": cat, "slice": slice_, "view": view, "permute": permute,
    "pad": pad, "pad_with_value": pad, "pad_reflect": pad, "pad_replicate": pad, "pad_circular": pad,
    "hardtanh": hardtanh, "clamp": clamp, "hardsigmoid": hardsigmoid, "silu": silu, "gelu": gelu,
    "leaky_relu": leaky_relu, "elu": elu, "prelu": prelu, "softmax": softmax,
    "batch_norm": batch_norm, "layer_norm": layer_norm, "matmul": matmul, "bmm": matmul,
    "upsample_nearest2d": upsample_nearest, "upsample_nearest2d_uneven": upsample_nearest,
}


def _check_average(node: fx.Node, arguments: dict[str, Any]) -> str:
    if arguments["divisor_override"] is not None:
        return "avg_pool2d with a divisor of its own"
    if arguments["ceil_mode"] and not _divides(node, arguments):
        return "avg_pool2d whose last window is cut off (ceil_mode)"
    return ""


def _divides(node: fx.Node, arguments: dict[str, Any]) -> bool:
    sizes = tensor_shape(arguments["self"])[2:]
    strides = pair(arguments["stride"] or arguments["kernel_size"])
    rows = zip(sizes, pair(arguments["kernel_size"]), strides, pair(arguments["padding"]), strict=True)
    return all((size + 2 * pads - kernel) % stride == 0 for size, kernel, stride, pads in rows)


def _check_elu(node: fx.Node, arguments: dict[str, Any]) -> str:
    return "" if arguments["scale"] == 1 and arguments["input_scale"] == 1 else "elu with scales (selu)"


def _check_dtype(node: fx.Node, arguments: dict[str, Any]) -> str:
    return "" if arguments.get("dtype") is None else f"{op_name(node)} into another type"


def _check_rounding(node: fx.Node, arguments: dict[str, Any]) -> str:
    return "" if arguments.get("rounding_mode") is None else "div with rounding"


CHECKS: dict[str, Callable[[fx.Node, dict[str, Any]], str]] = {
    "avg_pool2d": _check_average, "elu": _check_elu, "softmax": _check_dtype, "mean_over_dims": _check_dtype,
    "div": _check_rounding,
}
