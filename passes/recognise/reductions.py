"""Reductions with a name of their own.

    exp(x - amax(x)) / sum(exp(x - amax(x)))     -> softmax
    mean over the last axis of a flattened map   -> mean over space
"""

from __future__ import annotations

from torch import fx

from isobit.passes.recognise.rewriting import aten, call, is_call
from isobit.pipeline.graph.nodes import bound_args, source_of, tensor_shape


def softmax(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Exponentials by their sum along one axis."""
    if not is_call(node, aten.div.Tensor) or not is_call(node.args[0], aten.exp.default):
        return None
    powers, total = source_of(node, 0), node.args[1]
    if not isinstance(total, fx.Node) or not is_call(total, aten.sum.dim_IntList) or total.args[0] is not powers:
        return None
    axis = _axis(total)
    if axis is None or set(powers.users) != {node, total}:
        return None
    x = source_of(powers)
    if is_call(x, aten.sub.Tensor) and x.kwargs.get("alpha", 1) == 1 and is_call(x.args[1], aten.amax.default):
        largest = source_of(x, 1)
        if largest.args[0] is x.args[0] and _axis(largest) == axis:
            x = source_of(x)
    return call(graph, node, aten.softmax.int, x, axis)


def _axis(node: fx.Node) -> int | None:
    """The one axis of a reduction that keeps it."""
    args, rank = bound_args(node), len(tensor_shape(source_of(node)))
    dims = [dim % rank for dim in args["dim"] or ()]
    return dims[0] if len(dims) == 1 and args["keepdim"] and args.get("dtype") is None else None


def average(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The mean of a map that was flattened."""
    if not is_call(node, aten.mean.dim) or not is_call(node.args[0], aten.reshape.default):
        return None
    args, flat = bound_args(node), source_of(node)
    before, shape = tensor_shape(source_of(flat)), tensor_shape(flat)
    if len(before) != 4 or len(shape) != 3 or shape[:2] != before[:2] or args["dtype"] is not None:
        return None
    if [dim % 3 for dim in args["dim"] or ()] != [2]:
        return None
    pooled = call(graph, node, aten.mean.dim, source_of(flat), [2, 3], True, shape=(*before[:2], 1, 1))
    wanted = tensor_shape(node)
    return call(graph, node, aten.reshape.default, pooled, [-1 if size is None else size for size in wanted])
