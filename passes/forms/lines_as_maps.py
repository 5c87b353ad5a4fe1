"""Networks of one axis as networks of maps with one row, so that their layers run in integers everywhere.

    conv1d, conv_transpose1d, pools of lines   -> the same of maps [N, C, 1, length]
    batch_norm, functions of one tensor        -> likewise, where what they read is a map already
    add, mul, cat, mean over the length        -> likewise

A reshape stands where a line enters, and where something else reads a map: nothing between two layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from isobit.pipeline.graph.nodes import (
    bound_args,
    finish,
    get_attribute,
    insert_call,
    is_constant,
    op_name,
    set_attribute,
    source_of,
    tensor_shape,
)
from isobit.pipeline.operators.unary import UNARY

aten = torch.ops.aten


def lines_as_maps(graph: fx.GraphModule) -> bool:
    """Rewrite in place; True where there was a layer of one axis."""
    maps: dict[fx.Node, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or len(tensor_shape(_data(node) or node)) != 3:
            continue
        write = _layer_on_maps(node) or (_follower(node) if _reads_map(node, maps) else None)
        if write is not None:
            maps[node] = write(graph, node, lambda source, at=node: _as_map(graph, at, source, maps))
            maps[node].meta["shape"] = _shape_of_map(node)
    for node, value in maps.items():
        _give_back(graph, node, value, maps)
    for node in reversed(maps):
        graph.graph.erase_node(node)
    if maps:
        finish(graph)
    return bool(maps)


# (graph, the call, what gives the map of a line that it reads) -> the call on maps.
_Write = Callable[[fx.GraphModule, fx.Node, Callable[[fx.Node], fx.Node]], fx.Node]


def _layer_on_maps(node: fx.Node) -> _Write | None:
    """How a layer or a pool is written on maps; None for another operator and for a weight that is computed."""
    write = _LAYERS.get(node.target)
    weight = bound_args(node).get("weight") if write is not None else None
    return None if weight is not None and weight.op != "get_attr" else write


def _data(node: fx.Node) -> fx.Node | None:
    return next((source for source in node.all_input_nodes if not is_constant(source)), None)


def _reads_map(node: fx.Node, maps: dict[fx.Node, fx.Node]) -> bool:
    return any(source in maps for source in node.all_input_nodes)


def _shape_of_map(node: fx.Node) -> tuple[int | None, ...]:
    *front, length = tensor_shape(node) if len(tensor_shape(node)) == 3 else (*tensor_shape(node), 1)
    return (*front, 1, length)


def _as_map(graph: fx.GraphModule, node: fx.Node, source: fx.Node, maps: dict[fx.Node, fx.Node]) -> fx.Node:
    """The map of a line that `node` reads."""
    if source not in maps:
        return _reshaped(graph, node, source, _shape_of_map(source))
    return maps[source]


def _give_back(graph: fx.GraphModule, node: fx.Node, value: fx.Node, maps: dict[fx.Node, fx.Node]) -> None:
    """What reads the line and is no call on maps itself reads a reshape of the map."""
    readers = [user for user in node.users if user not in maps]
    if readers:
        line = _reshaped(graph, node, value, tensor_shape(node))
        for reader in readers:
            reader.replace_input_with(node, line)


def _reshaped(graph: fx.GraphModule, node: fx.Node, source: fx.Node, shape: tuple[int | None, ...]) -> fx.Node:
    made = insert_call(graph, node, aten.reshape.default, (source, [-1 if size is None else size for size in shape]))
    made.meta["shape"] = shape
    return made


def _kernel(graph: fx.GraphModule, layer: fx.Node, weight: fx.Node) -> fx.Node:
    """A weight [K, C, size] as [K, C, 1, size], under its name where only this layer reads it."""
    target = str(weight.target)
    value = get_attribute(graph, weight).detach().unsqueeze(2)
    readers = {user for node in graph.graph.nodes if node.target == target for user in node.users}
    set_attribute(graph, target if readers == {layer} else f"{target}_{layer.name}", value)
    with graph.graph.inserting_before(layer):
        made = graph.graph.create_node("get_attr", target if readers == {layer} else f"{target}_{layer.name}")
    made.meta["shape"] = tuple(value.shape)
    return made


def _wide(value: Any, row: int) -> Any:
    """An argument of one axis as one of two; `row` for the axis of rows. Strings pass, empty lists too."""
    if isinstance(value, str) or value == []:
        return value
    return [row, value if isinstance(value, int) else value[0]]


def _layer(target: Any) -> _Write:
    def write(graph: fx.GraphModule, node: fx.Node, as_map: Callable[[fx.Node], fx.Node]) -> fx.Node:
        args = bound_args(node)
        rows = {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}
        given = [_wide(value, rows[name]) if name in rows else value for name, value in args.items()]
        given[:2] = [as_map(args["input"]), _kernel(graph, node, args["weight"])]
        return insert_call(graph, node, target, given)

    return write


def _pool(target: Any) -> _Write:
    def write(graph: fx.GraphModule, node: fx.Node, as_map: Callable[[fx.Node], fx.Node]) -> fx.Node:
        rows = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0, "output_size": 1}
        args = bound_args(node)
        given = [_wide(value, rows[name]) if name in rows else value for name, value in args.items()]
        return insert_call(graph, node, target, [as_map(args["self"]), *given[1:]])

    return write


def _follower(node: fx.Node) -> _Write | None:
    """How a call that reads a map is written on maps; None where it is not."""
    name, shape = op_name(node), tensor_shape(node)
    lines = all(len(tensor_shape(source)) == 3 for source in node.all_input_nodes if not is_constant(source))
    numbers = not any(map(is_constant, node.all_input_nodes))
    if name == "batch_norm" or (name in UNARY and (numbers or UNARY[name].by_channel)):
        return _same
    if name in ("add", "mul") and lines:
        return _same
    if name == "cat" and lines and bound_args(node)["dim"] in (1, 2, -1, -2):
        return _joined
    args = bound_args(node) if name == "mean_over_dims" else {}
    return _mean if args.get("dim") in ([2], [-1]) and args["dtype"] is None and shape[0] is None else None


def _same(graph: fx.GraphModule, node: fx.Node, as_map: Callable[[fx.Node], fx.Node]) -> fx.Node:
    args = [as_map(arg) if isinstance(arg, fx.Node) and not is_constant(arg) else arg for arg in node.args]
    made = insert_call(graph, node, node.target, args)
    made.kwargs = node.kwargs
    return made


def _joined(graph: fx.GraphModule, node: fx.Node, as_map: Callable[[fx.Node], fx.Node]) -> fx.Node:
    args = bound_args(node)
    axis = args["dim"] % 3
    return insert_call(graph, node, aten.cat.default, ([as_map(part) for part in args["tensors"]], axis + axis // 2))


def _mean(graph: fx.GraphModule, node: fx.Node, as_map: Callable[[fx.Node], fx.Node]) -> fx.Node:
    return insert_call(graph, node, aten.mean.dim, (as_map(source_of(node)), [2, 3], True))


_LAYERS: dict[Any, _Write] = {
    aten.conv1d.default: _layer(aten.conv2d.default),
    aten.conv1d.padding: _layer(aten.conv2d.padding),
    aten.conv_transpose1d.default: _layer(aten.conv_transpose2d.input),
    aten.max_pool1d.default: _pool(aten.max_pool2d.default),
    aten.avg_pool1d.default: _pool(aten.avg_pool2d.default),
    aten.adaptive_avg_pool1d.default: _pool(aten.adaptive_avg_pool2d.default),
}
