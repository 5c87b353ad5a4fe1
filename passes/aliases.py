"""Other names of operators, and operators that others say exactly: what `canonicalize` rewrites before its own forms.

    clip, absolute, multiply, concat, ...        -> clamp, abs, mul, cat            (`SAME`: one operator, two names)
    movedim, swapaxes, mT, adjoint, ...          -> permute
    narrow, select, unbind, tensor_split, ...    -> slice, and a reshape where an axis goes
    stack, hstack                                -> cat
    square, pow(2)                               -> mul
    bmm                                          -> matmul
    amax over space, adaptive_max_pool2d to 1    -> max_pool2d over the whole map
    threshold(0, 0)                              -> relu
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

import torch
from torch import fx

from isobit.pipeline.graph.nodes import bound_args, insert_call, overload_of, source_of, tensor_shape

aten = torch.ops.aten
SAME = {
    "clip": "clamp", "absolute": "abs", "multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub",
    "negative": "neg", "concat": "cat", "concatenate": "cat", "arctan": "atan", "arctan2": "atan2", "arccos": "acos",
    "arcsin": "asin", "arctanh": "atanh", "arcsinh": "asinh", "arccosh": "acosh", "fix": "trunc", "greater": "gt",
    "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "special_expit": "sigmoid",
    "special_erf": "erf", "special_exp2": "exp2", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
}
PERMUTATIONS = (
    "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "mH", "H", "adjoint", "numpy_T", "matrix_H",
)
# What returns several tensors: each piece is replaced, the call itself is dead afterwards.
TUPLES = frozenset({"unbind", "tensor_split", "hsplit", "dsplit", "adaptive_max_pool2d"})
Rewrite = Callable[[fx.GraphModule, fx.Node], fx.Node | None]


def packet_of(node: fx.Node) -> str:
    """Name of an ATen operator without its overload; empty for other calls."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__) if packet is not None else ""


def index_of(piece: fx.Node) -> int:
    """Which entry of a tuple the `getitem` takes."""
    index = piece.args[1]
    if not isinstance(index, int):
        raise TypeError(f"{piece.name} takes {index!r} of a tuple, not one entry")
    return index


def rename(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Write one node in the names that later passes know; True where it was not."""
    name = packet_of(node)
    renamed = name in SAME
    if renamed:
        overload = getattr(getattr(aten, SAME[name]), overload_of(node)._overloadname, None)
        if overload is None:
            return False
        node.target = overload
        name = SAME[name]
    value = _REWRITES[name](graph, node) if name in _REWRITES else None
    if value is None:
        return renamed or (name in TUPLES and not node.users)
    node.replace_all_uses_with(value)
    graph.graph.erase_node(node)
    return True


def _call(graph: fx.GraphModule, node: fx.Node, target: Callable, args: tuple, shape: tuple) -> fx.Node:
    new = insert_call(graph, node, target, args)
    new.meta["shape"] = tuple(shape)
    return new


def _reshaped(graph: fx.GraphModule, node: fx.Node, source: fx.Node, shape: tuple[int | None, ...]) -> fx.Node:
    sizes = [-1 if size is None else size for size in shape]
    return _call(graph, node, aten.reshape.default, (source, sizes), shape)


def _sliced(graph: fx.GraphModule, node: fx.Node, source: fx.Node, axis: int, start: int, end: int) -> fx.Node:
    shape = list(tensor_shape(source))
    shape[axis] = end - start
    return _call(graph, node, aten.slice.Tensor, (source, axis, start, end, 1), tuple(shape))


def _permuted(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Which axis goes where is asked of the operator itself, on a tensor whose sizes are all different."""
    rank = len(tensor_shape(source_of(node)))
    probe = torch.empty(tuple(range(1, rank + 1)), device="meta")
    order = [size - 1 for size in overload_of(node)(probe, *node.args[1:], **node.kwargs).shape]
    return _call(graph, node, aten.permute.default, (node.args[0], order), tensor_shape(node))


def _narrow(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    axis, start, length = args["dim"] % len(tensor_shape(source_of(node))), args["start"], args["length"]
    size = tensor_shape(source_of(node))[axis]
    if size is None or not isinstance(start, int) or not isinstance(length, int):
        return None
    return _sliced(graph, node, source_of(node), axis, start % size, start % size + length)


def _selected(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    axis = args["dim"] % len(tensor_shape(source_of(node)))
    size = tensor_shape(source_of(node))[axis]
    if size is None or not isinstance(args["index"], int):
        return None
    return _picked(graph, node, source_of(node), axis, args["index"] % size)


def _picked(graph: fx.GraphModule, node: fx.Node, source: fx.Node, axis: int, index: int) -> fx.Node:
    piece = _sliced(graph, node, source, axis, index, index + 1)
    shape = tensor_shape(piece)
    return _reshaped(graph, node, piece, (*shape[:axis], *shape[axis + 1:]))


def _pieces(graph: fx.GraphModule, node: fx.Node, axis: int, piece: Callable[[int], fx.Node]) -> None:
    """Replace every getitem of a tuple; the node itself is dead afterwards, unless the tuple is used as a whole."""
    users = list(node.users)
    if tensor_shape(source_of(node))[axis] is None or any(user.target is not operator.getitem for user in users):
        return
    for user in users:
        user.replace_all_uses_with(piece(index_of(user)))
        graph.graph.erase_node(user)


def _unbound(graph: fx.GraphModule, node: fx.Node) -> None:
    axis = bound_args(node)["dim"] % len(tensor_shape(source_of(node)))
    size = tensor_shape(source_of(node))[axis]
    _pieces(graph, node, axis, lambda index: _picked(graph, node, source_of(node), axis, index % size))


def _parted(graph: fx.GraphModule, node: fx.Node) -> None:
    """tensor_split by number or places, hsplit and dsplit: the operator itself says where, on a row of numbers."""
    args = bound_args(node)
    rank = len(tensor_shape(source_of(node)))
    axis = args["dim"] % rank if "dim" in args else {"hsplit": 1, "dsplit": 2}[packet_of(node)]
    size = tensor_shape(source_of(node))[axis]
    where = next(args[key] for key in ("sections", "indices", "tensor_indices_or_sections") if key in args)
    if size is None or isinstance(where, fx.Node):
        return
    ends = [0, *itertools.accumulate(len(part) for part in torch.tensor_split(torch.arange(size), where))]
    _pieces(graph, node, axis, lambda index: _sliced(graph, node, source_of(node), axis, *ends[index:][:2]))


def _stacked(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args, shape = bound_args(node), tensor_shape(node)
    axis = args["dim"] % len(shape)
    if axis == 0:
        return None
    single = (*shape[:axis], 1, *shape[axis + 1:])
    parts = [_reshaped(graph, node, source, single) for source in args["tensors"]]
    return _call(graph, node, aten.cat.default, (parts, axis), shape)


def _beside(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    return _call(graph, node, aten.cat.default, (node.args[0], 1), tensor_shape(node))


def _square(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    if packet_of(node) == "pow" and (node.target is not aten.pow.Tensor_Scalar or node.args[1] != 2):
        return None
    return _call(graph, node, aten.mul.Tensor, (node.args[0], node.args[0]), tensor_shape(node))


def _product(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    return _call(graph, node, aten.matmul.default, node.args, tensor_shape(node))


def _largest(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args, shape = bound_args(node), tensor_shape(source_of(node))
    if len(shape) != 4 or None in shape[2:] or sorted(dim % 4 for dim in args["dim"]) != [2, 3]:
        return None
    return _over_the_map(graph, node, tensor_shape(node))


def _adaptive_largest(graph: fx.GraphModule, node: fx.Node) -> None:
    shape = tensor_shape(source_of(node))
    if len(shape) != 4 or list(bound_args(node)["output_size"]) not in ([1, 1], [1]):
        return
    for user in [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]:
        user.replace_all_uses_with(_over_the_map(graph, node, (*shape[:2], 1, 1)))
        graph.graph.erase_node(user)


def _over_the_map(graph: fx.GraphModule, node: fx.Node, wanted: tuple[int | None, ...]) -> fx.Node:
    shape = tensor_shape(source_of(node))
    window = list(shape[2:])
    pooled = _call(graph, node, aten.max_pool2d.default, (node.args[0], window, window), (*shape[:2], 1, 1))
    return pooled if len(wanted) == 4 else _reshaped(graph, node, pooled, wanted)


def _threshold(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    if (node.args[1], node.args[2]) != (0, 0):
        return None
    return _call(graph, node, aten.relu.default, (node.args[0],), tensor_shape(node))


_REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(PERMUTATIONS, _permuted),
    "narrow": _narrow,
    "select": _selected,
    "unbind": _unbound,
    **dict.fromkeys(("tensor_split", "hsplit", "dsplit"), _parted),
    "stack": _stacked,
    "hstack": _beside,
    **dict.fromkeys(("square", "pow"), _square),
    "bmm": _product,
    "amax": _largest,
    "adaptive_max_pool2d": _adaptive_largest,
    "threshold": _threshold,
}
