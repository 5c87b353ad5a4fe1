"""One form for each operation with a number.

    maximum(x, 0), minimum(x, 6), clamp with tensors   -> relu, hardtanh
    min(max(x, a), b)                                  -> hardtanh(x, a, b)
    pow(x, 0.5), pow(x, -1), pow(x, 1)                 -> sqrt, reciprocal, x;  an exponent in a tensor is a number
    c / x                                              -> c * reciprocal(x)
    x + 0, x * 1                                       -> x
"""

from __future__ import annotations

import math

from torch import fx

from isobit.passes.recognise.rewriting import aten, call, is_call, number_of, tensor_and_number
from isobit.pipeline.graph.nodes import bound_args, source_of, tensor_shape

_POWERS = {0.5: aten.sqrt.default, -0.5: aten.rsqrt.default, -1.0: aten.reciprocal.default}
_LOWER = (aten.maximum.default, aten.max.other)
_UPPER = (aten.minimum.default, aten.min.other)


def scalar_form(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What stands for an operation with a number that has a plainer form."""
    if is_call(node, *_LOWER, *_UPPER):
        return _extreme(graph, node)
    if is_call(node, aten.clamp.Tensor):
        return _clamp(graph, node)
    if is_call(node, aten.relu.default, aten.hardtanh.default):
        return _clamp_of_clamp(graph, node)
    if is_call(node, aten.pow.Tensor_Tensor, aten.pow.Tensor_Scalar):
        return _power(graph, node)
    if is_call(node, aten.div.Tensor, aten.div.Scalar):
        return _quotient(graph, node)
    if is_call(node, aten.add.Tensor, aten.add.Scalar, aten.mul.Tensor, aten.mul.Scalar):
        return _nothing(graph, node)
    return None


def _bounded(graph: fx.GraphModule, node: fx.Node, x: fx.Node, low: float, high: float) -> fx.Node:
    if (low, high) == (0.0, math.inf):
        return call(graph, node, aten.relu.default, x)
    return call(graph, node, aten.hardtanh.default, x, low, high)


def _extreme(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    found = tensor_and_number(graph, node)
    if found is None or tensor_shape(found[0]) != tensor_shape(node):
        return None
    x, number = found
    return _bounded(graph, node, x, *((number, math.inf) if node.target in _LOWER else (-math.inf, number)))


def _clamp(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    low = -math.inf if args["min"] is None else number_of(graph, args["min"])
    high = math.inf if args["max"] is None else number_of(graph, args["max"])
    if low is None or high is None or tensor_shape(args["self"]) != tensor_shape(node):
        return None
    return _bounded(graph, node, args["self"], min(low, high), high)  # the upper end wins


def _ends(node: fx.Node) -> tuple[float, float] | None:
    if is_call(node, aten.relu.default):
        return 0.0, math.inf
    if not is_call(node, aten.hardtanh.default):
        return None
    args = bound_args(node)
    return float(args["min_val"]), float(args["max_val"])


def _clamp_of_clamp(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The second clamps what the first leaves; ranges that do not meet stay two."""
    inner = source_of(node)
    first, second = _ends(inner), _ends(node)
    if first is None or second is None or len(inner.users) != 1 or (first == second):
        return None
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return _bounded(graph, node, source_of(inner), low, high) if low < high else None


def _power(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    x, exponent = node.args[0], number_of(graph, node.args[1])
    if not isinstance(x, fx.Node) or x.op == "get_attr" or exponent is None:
        return None
    if exponent == 1.0:
        return x
    if exponent == 2.0:
        return call(graph, node, aten.mul.Tensor, x, x)
    if exponent in _POWERS:
        return call(graph, node, _POWERS[exponent], x)
    tensor = node.target is aten.pow.Tensor_Tensor
    return call(graph, node, aten.pow.Tensor_Scalar, x, exponent) if tensor else None


def _quotient(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    number, x = number_of(graph, node.args[0]), node.args[1]
    if number is None or number_of(graph, x) is not None or tensor_shape(source_of(node, 1)) != tensor_shape(node):
        return None
    inverse = call(graph, node, aten.reciprocal.default, x)
    return inverse if number == 1.0 else call(graph, node, aten.mul.Tensor, inverse, number)


def _nothing(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Nothing is added, or multiplied."""
    found = tensor_and_number(graph, node)
    neutral = 0.0 if is_call(node, aten.add.Tensor, aten.add.Scalar) else 1.0
    if found is None or bound_args(node).get("alpha", 1) != 1 or found[1] != neutral:
        return None
    return found[0] if tensor_shape(found[0]) == tensor_shape(node) else None
