"""Operators that integer runtimes lack, said with operators that they have; exact in real numbers.

    hardswish(x)                  = x * hardsigmoid(x)
    silu(x)                       = x * sigmoid(x)
    adaptive_avg_pool2d(x, 1)     = mean over space;  to another size that divides: avg_pool2d
    avg_pool2d with one output    = slice to the window, mean over space
    stack([a, b], 2), hstack      = concatenation of reshaped tensors;  select(x, 1, 3) = slice, reshape
    mean(x, [2, 3])               = mean with keepdim, reshape;  mean(x, [-1, -2], keepdim) = mean(x, [2, 3], keepdim)
"""

from __future__ import annotations

import torch
from torch import fx

from pipeline.graph import bound_args, finish, insert_call, op_name, tensor_shape

aten = torch.ops.aten
GATES = {"hardswish": aten.hardsigmoid.default, "silu": aten.sigmoid.default}


def decompose(graph: fx.GraphModule) -> bool:
    """Rewrite in place; True where anything changed."""
    changed = False
    for node in list(graph.graph.nodes):
        name = op_name(node)
        new = None
        if name in GATES:
            new = _gated(graph, node, GATES[name])
        elif name == "adaptive_avg_pool2d":
            new = _adaptive(graph, node)
        elif name == "avg_pool2d":
            new = _single_window(graph, node)
        elif name in ("mean", "mean_over_dims"):
            new = _mean(graph, node)
        elif name in ("stack", "hstack"):
            new = _stack(graph, node)
        elif name == "select":
            new = _select(graph, node)
        if new is not None:
            new.meta["shape"] = tensor_shape(node)
            node.replace_all_uses_with(new)
            graph.graph.erase_node(node)
            changed = True
    if changed:
        finish(graph)
    return changed


def _gated(graph: fx.GraphModule, node: fx.Node, gate: object) -> fx.Node:
    opened = insert_call(graph, node, gate, (node.args[0],))
    return insert_call(graph, node, aten.mul.Tensor, (node.args[0], opened))


def _global_average(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> fx.Node:
    return insert_call(graph, node, aten.mean.dim, (source, [2, 3], True))


def _adaptive(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    have = tensor_shape(node.args[0])[2:]
    size = [h if w is None else w for h, w in zip(have, bound_args(node)["output_size"], strict=True)]
    if tuple(size) == (1, 1):
        return _global_average(graph, node, node.args[0])
    if tuple(size) == have:
        return node.args[0]
    if any(h % w for h, w in zip(have, size, strict=True)):
        return None
    window = [h // w for h, w in zip(have, size, strict=True)]
    return insert_call(graph, node, aten.avg_pool2d.default, (node.args[0], window, window))


def _single_window(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    if tensor_shape(node)[2:] != (1, 1) or any(args["padding"]) or args["divisor_override"] is not None:
        return None
    source = node.args[0]
    window = list(args["kernel_size"]) * (2 // len(args["kernel_size"]))
    for axis, (size, have) in enumerate(zip(window, tensor_shape(source)[2:], strict=True), start=2):
        if size > have:
            return None
        if size < have:
            shape = list(tensor_shape(source))
            shape[axis] = size
            source = insert_call(graph, node, aten.slice.Tensor, (source, axis, 0, size, 1))
            source.meta["shape"] = tuple(shape)
    return _global_average(graph, node, source)


def _mean(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    rank = len(tensor_shape(node.args[0]))
    if rank != 4 or sorted(dim % rank for dim in args.get("dim") or ()) != [2, 3] or args["dtype"] is not None:
        return None
    if args["keepdim"]:
        return None if list(args["dim"]) == [2, 3] else _global_average(graph, node, node.args[0])
    channels = tensor_shape(node.args[0])[1]
    return insert_call(graph, node, aten.reshape.default, (_global_average(graph, node, node.args[0]), [-1, channels]))


def _stack(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    tensors, shape = list(node.args[0]), tensor_shape(node)
    axis = 1 if op_name(node) == "hstack" else bound_args(node)["dim"] % len(shape)
    if len(shape) < 2 or axis == 0 or None in shape[1:]:
        return None
    if op_name(node) == "stack":
        sizes = [-1, *(1 if place == axis else size for place, size in enumerate(shape) if place)]
        tensors = [_shaped(graph, node, tensor, sizes) for tensor in tensors]
    return insert_call(graph, node, aten.cat.default, (tensors, axis))


def _select(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    source, shape = node.args[0], tensor_shape(node)
    have = tensor_shape(source)
    axis, index = node.args[1] % len(have), node.args[2]
    if axis == 0 or None in have[1:] or not isinstance(index, int):
        return None
    index %= have[axis]
    piece = insert_call(graph, node, aten.slice.Tensor, (source, axis, index, index + 1, 1))
    piece.meta["shape"] = (*have[:axis], 1, *have[axis + 1:])
    return _shaped(graph, node, piece, [-1, *shape[1:]])


def _shaped(graph: fx.GraphModule, origin: fx.Node, source: fx.Node, sizes: list[int]) -> fx.Node:
    view = insert_call(graph, origin, aten.reshape.default, (source, sizes))
    view.meta["shape"] = (None, *sizes[1:])
    return view
