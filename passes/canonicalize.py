"""One way to say each thing: functional, no identities, static shapes, the operator names of `pipeline.dialect`.

    out += x, relu_           -> add, relu                  (in-place becomes functional)
    dropout, contiguous, ...  -> their input                (identities in evaluation)
    relu6, clamp              -> hardtanh / relu
    flatten, view, squeeze    -> reshape([-1, ...])         (only the batch is free)
    transpose                 -> permute
    chunk, split + getitem    -> slice
    slice over a whole axis   -> its input
    conv2d(padding="same")    -> conv2d with numbers
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx

from pipeline.errors import CaptureError
from pipeline.graph import bound_args, finish, insert_call, tensor_shape, where

aten = torch.ops.aten
IDENTITIES = frozenset({
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone", "detach", "alias",
    "lift_fresh_copy",
})
RESHAPES = frozenset({"view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "_unsafe_view"})


def canonicalize(graph: fx.GraphModule) -> bool:
    """Rewrite every node into its canonical form, in place; True where anything changed."""
    changed = False
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            changed |= _functional(graph, node)
    for node in list(graph.graph.nodes):
        rewrite = _REWRITES.get(_packet(node)) if node.op == "call_function" else None
        if rewrite is not None:
            changed |= rewrite(graph, node)
    if changed:
        finish(graph)
    return changed


def _packet(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__) if packet is not None else ""


def _functional(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Replace `op_` by `op`; later readers of the overwritten tensor read the result."""
    name = _packet(node)
    if not name.endswith("_") or name.startswith("_") or not hasattr(aten, name[:-1]):
        return False
    overload = getattr(getattr(aten, name[:-1]), str(node.target._overloadname), None)
    if overload is None:
        raise CaptureError(f"in-place operator {node.target} has no functional form", where=where(node))
    overwritten = node.args[0]
    node.target = overload
    later = set(_after(graph, node))
    overwritten.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)
    return True


def _after(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    nodes = list(graph.graph.nodes)
    return nodes[nodes.index(node) + 1:]


def _replace(graph: fx.GraphModule, node: fx.Node, target: Callable, args: tuple) -> bool:
    new = insert_call(graph, node, target, args)
    new.meta["shape"] = tensor_shape(node)
    return _forward(graph, node, new)


def _forward(graph: fx.GraphModule, node: fx.Node, value: fx.Node) -> bool:
    node.replace_all_uses_with(value)
    graph.graph.erase_node(node)
    return True


def _identity(graph: fx.GraphModule, node: fx.Node) -> bool:
    return _forward(graph, node, node.args[0])


def _reshape(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A reshape with literal sizes; an operator of this family with the shape of its input is an identity."""
    shape = tensor_shape(node)
    if shape.count(None) > 1:
        raise CaptureError(
            f"{_packet(node)} depends on more than the batch", where=where(node), allowed="one free size"
        )
    if shape == tensor_shape(node.args[0]):
        return _identity(graph, node)
    sizes = [-1 if size is None else size for size in shape]
    if node.target is aten.reshape.default and node.args[1] == sizes:
        return False
    return _replace(graph, node, aten.reshape.default, (node.args[0], sizes))


def _transpose(graph: fx.GraphModule, node: fx.Node) -> bool:
    rank = len(tensor_shape(node.args[0]))
    order = list(range(rank))
    first, second = node.args[1] % rank, node.args[2] % rank
    order[first], order[second] = order[second], order[first]
    return _replace(graph, node, aten.permute.default, (node.args[0], order))


def _clamp(graph: fx.GraphModule, node: fx.Node) -> bool:
    args = bound_args(node)
    low, high = args.get("min"), args.get("max")
    if low == 0 and high is None:
        return _replace(graph, node, aten.relu.default, (node.args[0],))
    if isinstance(low, int | float) and isinstance(high, int | float):
        return _replace(graph, node, aten.hardtanh.default, (node.args[0], float(low), float(high)))
    return False


def _relu6(graph: fx.GraphModule, node: fx.Node) -> bool:
    return _replace(graph, node, aten.hardtanh.default, (node.args[0], 0.0, 6.0))


def _hardtanh(graph: fx.GraphModule, node: fx.Node) -> bool:
    args = bound_args(node)
    new = (node.args[0], float(args["min_val"]), float(args["max_val"]))
    if node.args == new:
        return False
    node.args, node.kwargs = new, {}
    return True


def _split(graph: fx.GraphModule, node: fx.Node) -> bool:
    """chunk/split and its getitems become slices with literal ends."""
    axis = bound_args(node)["dim"] % len(tensor_shape(node.args[0]))
    pieces = [user for user in node.users if user.target is operator.getitem]
    if axis == 0 or len(pieces) != len(node.users):
        raise CaptureError(f"{_packet(node)} along the batch", where=where(node), allowed="splits of channels or space")
    starts = _starts(node, axis)
    for piece in pieces:
        start, end = starts[piece.args[1]], starts[piece.args[1] + 1]
        _replace(graph, piece, aten.slice.Tensor, (node.args[0], axis, start, end, 1))
    graph.graph.erase_node(node)
    return True


def _starts(node: fx.Node, axis: int) -> list[int]:
    """Where each piece starts along `axis`, and the end."""
    total = tensor_shape(node.args[0])[axis]
    sizes = node.args[1]
    if not isinstance(sizes, list | tuple):
        step = -(-total // sizes) if _packet(node) == "chunk" else sizes
        sizes = [min(step, total - start) for start in range(0, total, step)]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


def _slice(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Literal, non-negative ends; a slice that takes everything is an identity."""
    args = bound_args(node)
    axis = args["dim"] % len(tensor_shape(node.args[0]))
    size = tensor_shape(node.args[0])[axis]
    step = args["step"]
    if size is None:
        if args["start"] in (None, 0) and step == 1 and (args["end"] is None or args["end"] >= 2**62):
            return _identity(graph, node)
        raise CaptureError("a slice of the batch", where=where(node), allowed="slices of channels or space")
    start, end, _ = slice(args["start"], args["end"]).indices(size)
    if (start, end, step) == (0, size, 1):
        return _identity(graph, node)
    new = (node.args[0], axis, start, end, step)
    if node.args == new:
        return False
    node.args, node.kwargs = new, {}
    return True


def _pad(graph: fx.GraphModule, node: fx.Node) -> bool:
    args = bound_args(node)
    value = float(args["value"] or 0.0)
    if not any(args["pad"]):
        return _identity(graph, node)
    mode = args.get("mode", "constant")
    new = (node.args[0], list(args["pad"]), mode, value if mode == "constant" else None)
    if node.target is aten.pad.default and node.args == new:
        return False
    return _replace(graph, node, aten.pad.default, new)


def _conv(graph: fx.GraphModule, node: fx.Node) -> bool:
    """String paddings become numbers; an uneven `same` becomes a pad in front."""
    if node.target is not aten.conv2d.padding:
        return False
    args = bound_args(node)
    source, kernel = node.args[0], tensor_shape(args["weight"])[2:]
    extra = [d * (k - 1) if args["padding"] == "same" else 0 for k, d in zip(kernel, args["dilation"], strict=True)]
    padding = [size // 2 for size in extra]
    if any(size % 2 for size in extra):
        around = [padding[1], extra[1] - padding[1], padding[0], extra[0] - padding[0]]
        source, padding = insert_call(graph, node, aten.pad.default, (source, around, "constant", 0.0)), [0, 0]
    new = (source, args["weight"], args["bias"], args["stride"], padding, args["dilation"], args["groups"])
    return _replace(graph, node, aten.conv2d.default, new)


_REWRITES: dict[str, Callable[[fx.GraphModule, fx.Node], bool]] = {
    **dict.fromkeys(IDENTITIES, _identity),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _split),
    "transpose": _transpose,
    "relu6": _relu6,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "hardtanh": _hardtanh,
    "slice": _slice,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "conv2d": _conv,
}
