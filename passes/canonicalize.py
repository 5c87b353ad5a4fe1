"""One way to say each thing: functional, no identities, static shapes, the operator names of `pipeline.graph.dialect`.

    out += x, relu_           -> add, relu                  (in-place becomes functional)
    dropout, contiguous, ...  -> their input                (identities in evaluation; so is a cast to the same type)
    weight norm, w * 2, ...   -> a parameter                (what depends on parameters only)
    relu6, clamp              -> hardtanh / relu            (also of one side)
    flatten, view, squeeze    -> reshape([-1, ...])         (only the batch is free)
    transpose, clip, ...      -> permute, clamp, ...        (see `aliases`; non-negative axes)
    chunk, split + getitem    -> slice
    slice over a whole axis   -> its input
    cat with an empty tensor  -> cat without it
    conv2d(padding="same")    -> conv2d with numbers; no dilation of a single tap
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
from torch import fx
from torch.fx.node import map_arg

from isobit.passes.aliases import index_of, packet_of, rename
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import (
    bound_args,
    finish,
    get_attribute,
    insert_call,
    op_name,
    overload_of,
    pair,
    set_attribute,
    source_of,
    tensor_shape,
    where,
)
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.shapes import known_sizes

aten = torch.ops.aten
IDENTITIES = frozenset({
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone", "detach", "alias",
    "lift_fresh_copy",
})
SPLITS = frozenset({"chunk", "split", "split_with_sizes"})
CASTS = frozenset({"to", "_to_copy", "type_as"})
RESHAPES = frozenset({
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "_unsafe_view", "ravel", "view_as", "reshape_as",
})
EXPANSIONS = frozenset({"expand", "expand_as", "broadcast_to"})


def canonicalize(graph: fx.GraphModule) -> bool:
    """Rewrite every node into its canonical form, in place; True where anything changed.

    Raises:
        CaptureError: a form that has no functional or static equivalent; names the node and its source line.
    """
    changed = False
    for step in (_functional, rename, _rewrite, _constant, _literal):
        for node in list(graph.graph.nodes):
            if node.op == "call_function":
                changed |= step(graph, node)
    if changed:
        finish(graph)
    return changed


def _rewrite(graph: fx.GraphModule, node: fx.Node) -> bool:
    rewrite = _REWRITES.get(packet_of(node))
    return rewrite is not None and rewrite(graph, node)


def _constant(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A tensor computed from parameters alone, or from nothing, becomes a parameter; so do the pieces of a tuple."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    if any(n.op != "get_attr" for n in node.all_input_nodes):
        return False
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: get_attribute(graph, n).detach())
    value = node.target(*args, **kwargs)
    if isinstance(value, torch.Tensor):
        return _forward(graph, node, _stored(graph, node, value))
    pieces = [user for user in node.users if user.target is operator.getitem]
    if not isinstance(value, tuple | list) or len(pieces) != len(node.users):
        return False
    for piece in pieces:
        _forward(graph, piece, _stored(graph, piece, value[index_of(piece)]))
    graph.graph.erase_node(node)
    return True


def _stored(graph: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> fx.Node:
    """A `get_attr` of `value` before `node`, under its name."""
    # A node may be called like a method of modules: `to`.
    target = f"constants.{node.name}" + ("_value" if hasattr(torch.nn.Module, node.name) else "")
    set_attribute(graph, target, value.detach().clone())
    with graph.graph.inserting_before(node):
        new = graph.graph.create_node("get_attr", target)
    new.meta["shape"] = tuple(value.shape)
    return new


def _literal(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Refuse a move whose sizes follow from the batch; what it does is to be known before there is one."""
    if op_name(node) in MOVES and len(node.all_input_nodes) > 1:
        raise CaptureError(f"{packet_of(node)} depends on the size of the batch", where=where(node),
                           allowed="literal sizes and counts, and sizes that follow from the input's")
    return False


def _functional(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Replace `op_` by `op`; later readers of the overwritten tensor read the result."""
    name = packet_of(node)
    if not name.endswith("_") or name.startswith("_") or not hasattr(aten, name[:-1]):
        return False
    overload = getattr(getattr(aten, name[:-1]), str(overload_of(node)._overloadname), None)
    if overload is None:
        raise CaptureError(f"in-place operator {node.target} has no functional form", where=where(node))
    overwritten = source_of(node)
    later = {node, *_after(graph, node)}
    stale = {reader for other in _overlapping(overwritten, later) for reader in other.users if reader in later}
    if any(packet_of(reader) != "sym_size" for reader in stale - {node}):
        raise CaptureError(
            f"{packet_of(node)} overwrites a part of a tensor that is read again", where=where(node),
            hint="write it without changing a view in place (torch.cat, torch.where, or clone() first)",
        )
    node.target = overload
    overwritten.replace_all_uses_with(node, delete_user_cb=lambda user: user in later - {node})
    return True


def _overlapping(node: fx.Node, later: set[fx.Node]) -> list[fx.Node]:
    """The other values that share memory with `node`: what it is a view of, and the earlier views of all these."""
    chain = [node]
    while (base := _viewed(chain[-1])) is not None:
        chain.append(base)
    found = list(chain)
    for value in found:
        # Another piece of one split is other memory.
        pieces = value in chain and packet_of(value) in SPLITS
        views = [] if pieces else [user for user in value.users if _viewed(user) is value]
        found.extend(view for view in views if view not in found and view not in later)
    return found[1:]


def _viewed(node: fx.Node) -> fx.Node | None:
    """The tensor whose memory the result of `node` may be."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target is operator.getitem or packet_of(node) in IDENTITIES:
        return node.args[0]
    schema = getattr(node.target, "_schema", None)
    alias = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return node.args[0] if alias is not None else None


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
    if "dropout" in packet_of(node) and bound_args(node)["train"]:
        raise CaptureError("the model was exported in training mode: dropout is active", where=where(node),
                           hint="call model.eval() before the export")
    return _forward(graph, node, source_of(node))


def _cast(graph: fx.GraphModule, node: fx.Node) -> bool:
    have, wanted = source_of(node).meta.get("val"), node.meta.get("val")
    return have is not None and wanted is not None and have.dtype == wanted.dtype and _identity(graph, node)


def _assertion(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Says what dtype the trace saw; in float64 it would be false."""
    graph.graph.erase_node(node)
    return True


def _reshape(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A reshape with literal sizes; an operator of this family with the shape of its input is an identity."""
    shape = tensor_shape(node)
    if shape.count(None) > 1:
        raise CaptureError(
            f"{packet_of(node)} depends on more than the batch", where=where(node), allowed="one free size"
        )
    if shape == tensor_shape(source_of(node)):
        return _identity(graph, node)
    sizes = [-1 if size is None else size for size in shape]
    if node.target is aten.reshape.default and node.args[1] == sizes:
        return False
    return _replace(graph, node, aten.reshape.default, (node.args[0], sizes))


def _expansion(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Literal sizes, -1 for the batch; one that changes no size is an identity."""
    shape, before = tensor_shape(node), tensor_shape(source_of(node))
    if shape == before:
        return _identity(graph, node)
    sizes = [-1 if size is None else size for size in shape]
    free = [axis for axis, size in enumerate(shape) if size is None]
    kept = all(axis >= len(shape) - len(before) and before[axis - len(shape)] is None for axis in free)
    if (node.target is aten.expand.default and node.args[1] == sizes) or not kept:
        return False
    return _replace(graph, node, aten.expand.default, (source_of(node), sizes))


def _permute(graph: fx.GraphModule, node: fx.Node) -> bool:
    dims = bound_args(node)["dims"]
    order = [dim % len(dims) for dim in dims]
    if order == list(range(len(order))):
        return _identity(graph, node)
    if order == list(dims):
        return False
    return _replace(graph, node, aten.permute.default, (node.args[0], order))


def _clamp(graph: fx.GraphModule, node: fx.Node) -> bool:
    args = bound_args(node)
    low, high = args.get("min"), args.get("max")
    if low == 0 and high is None:
        return _replace(graph, node, aten.relu.default, (node.args[0],))
    if (low, high) == (None, None) or not all(end is None or isinstance(end, int | float) for end in (low, high)):
        return False
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    return _replace(graph, node, aten.hardtanh.default, (node.args[0], min(low, high), high))


def _relu6(graph: fx.GraphModule, node: fx.Node) -> bool:
    return _replace(graph, node, aten.hardtanh.default, (node.args[0], 0.0, 6.0))


def _hardtanh(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Numbers as floats; where the ends are the wrong way round, the upper one is all there is."""
    low, high = (float(bound_args(node)[name]) for name in ("min_val", "max_val"))
    new = (node.args[0], min(low, high), high)
    if node.args == new:
        return False
    node.args, node.kwargs = new, {}
    return True


def _split(graph: fx.GraphModule, node: fx.Node) -> bool:
    """chunk/split and its getitems become slices with literal ends."""
    shape = tensor_shape(source_of(node))
    axis = bound_args(node)["dim"] % len(shape)
    pieces = [user for user in node.users if user.target is operator.getitem]
    total = shape[axis]
    if total is None:
        raise CaptureError(
            f"{packet_of(node)} along the batch", where=where(node), allowed="splits of channels or space"
        )
    if len(pieces) != len(node.users):
        raise CaptureError(f"the list that {packet_of(node)} returns is used as a whole", where=where(node),
                           hint="take its pieces one by one")
    starts = _starts(node, total)
    for piece in pieces:
        start, end = starts[index_of(piece)], starts[index_of(piece) + 1]
        _replace(graph, piece, aten.slice.Tensor, (node.args[0], axis, start, end, 1))
    graph.graph.erase_node(node)
    return True


def _starts(node: fx.Node, total: int) -> list[int]:
    """Where each piece starts along an axis of size `total`, and the end."""
    _, sizes, *_ = bound_args(node).values()
    if not isinstance(sizes, list | tuple):
        step = -(-total // sizes) if packet_of(node) == "chunk" else sizes
        sizes = [min(step, total - start) for start in range(0, total, step)]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


def _slice(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Literal, non-negative ends; a slice that takes everything is an identity."""
    args = bound_args(node)
    axis = args["dim"] % len(tensor_shape(source_of(node)))
    size = tensor_shape(source_of(node))[axis]
    step = args["step"]
    if any(isinstance(args[end], fx.Node) for end in ("start", "end", "step")):
        raise CaptureError("a slice whose ends depend on the batch", where=where(node), allowed="literal ends")
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
    """String paddings become numbers; an uneven `same` becomes a pad before it. A single tap has no dilation.

    PyTorch's kernel for channels-last maps ends the process where it is told otherwise and reads padding alone.
    """
    args = bound_args(node)
    kernel, given = known_sizes(tensor_shape(args["weight"])[2:]), [*pair(args["dilation"])]
    dilation = [1 if size == 1 else step for size, step in zip(kernel, given, strict=True)]
    if node.target is not aten.conv2d.padding:
        new = (*list(args.values())[:5], dilation, args["groups"])
        return dilation != given and _replace(graph, node, aten.conv2d.default, new)
    source = source_of(node)
    extra = [d * (k - 1) if args["padding"] == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    padding = [size // 2 for size in extra]
    if any(size % 2 for size in extra):
        around = [padding[1], extra[1] - padding[1], padding[0], extra[0] - padding[0]]
        source, padding = insert_call(graph, node, aten.pad.default, (source, around, "constant", 0.0)), [0, 0]
    new = (source, args["weight"], args["bias"], args["stride"], padding, dilation, args["groups"])
    return _replace(graph, node, aten.conv2d.default, new)


def _joined(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A concatenation leaves out operands without elements, also those of another rank, as torch does."""
    operands = bound_args(node)["tensors"]
    kept = [operand for operand in operands if 0 not in tensor_shape(operand)]
    if not kept or len(kept) == len(operands):
        return False
    if len(kept) == 1:
        return _forward(graph, node, kept[0])
    node.update_arg(0, kept)
    return True


_REWRITES: dict[str, Callable[[fx.GraphModule, fx.Node], bool]] = {
    **dict.fromkeys(IDENTITIES, _identity),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(EXPANSIONS, _expansion),
    **dict.fromkeys(SPLITS, _split),
    **dict.fromkeys(CASTS, _cast),
    **dict.fromkeys(("cat", "concat", "concatenate"), _joined),
    "_assert_tensor_metadata": _assertion,
    "permute": _permute,
    "relu6": _relu6,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "hardtanh": _hardtanh,
    "slice": _slice,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "conv2d": _conv,
}
