"""Whose memory an operator of a captured graph writes to: a forward pass must change nothing outside itself."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import fx

from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import get_attribute, where
from isobit.pipeline.graph.ports import input_nodes

_SAME_OBJECT = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})  # in evaluation


def keep_outside(graph: fx.GraphModule) -> None:
    """Make the forward pass leave the caller's tensor and the network's own buffers as they are, in place.

    A network that writes to an input gets a copy of it. Writes to buffers that no answer depends on (counters) go.

    Raises:
        CaptureError: answers depend on a buffer or parameter that the forward pass changes: the first call and the
            second would differ. With the source line of the write.
    """
    writes = {node: base for node in graph.graph.nodes for base in [_written(node)] if base is not None}
    for source in input_nodes(graph):
        if source in writes.values():
            _copy_first(graph, source)
    stateful = {node: base for node, base in writes.items() if base.op == "get_attr"}
    if stateful:
        _forget_state(graph, writes, stateful)


def memory_of(node: fx.Node) -> fx.Node:
    """The node whose memory the value of `node` lies in: itself, or what it is a view or an in-place result of."""
    while (source := _shared(node)) is not None:
        node = source
    return node


def _shared(node: fx.Node) -> fx.Node | None:
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    packet = getattr(node.target, "overloadpacket", None)
    if node.target is operator.getitem or (packet is not None and packet.__name__ in _SAME_OBJECT):
        return node.args[0]
    schema = getattr(node.target, "_schema", None)
    aliased = schema is not None and bool(schema.arguments) and schema.arguments[0].alias_info is not None
    return node.args[0] if aliased else None


def _written(node: fx.Node) -> fx.Node | None:
    """The node whose memory `node` changes, or None."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    if schema is None or not schema.is_mutable:
        return None
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            if isinstance(value, fx.Node):
                return memory_of(value)
    return None


def _copy_first(graph: fx.GraphModule, source: fx.Node) -> None:
    with graph.graph.inserting_after(source):
        own = graph.graph.call_function(torch.ops.aten.clone.default, (source,))
    own.meta.update({key: value for key, value in source.meta.items() if key in ("val", "shape")})
    source.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)


def _forget_state(graph: fx.GraphModule, writes: dict[fx.Node, fx.Node], stateful: dict[fx.Node, fx.Node]) -> None:
    live = _live(graph, writes)
    changed = {id(get_attribute(graph, base)): node for node, base in stateful.items()}
    for node in graph.graph.nodes:
        base = memory_of(node)
        if node in live and base.op == "get_attr" and id(get_attribute(graph, base)) in changed:
            raise CaptureError(
                f"the forward pass changes '{base.target}', and answers depend on it: no two calls are alike",
                where=where(changed[id(get_attribute(graph, base))]), allowed="a network without state between calls",
                hint="write the model so that in evaluation it only reads its buffers",
            )
    dead = set(stateful)
    for node in graph.graph.nodes:
        if dead.intersection(node.all_input_nodes):
            dead.add(node)
    for node in reversed(list(graph.graph.nodes)):
        if node in dead:
            graph.graph.erase_node(node)


def _live(graph: fx.GraphModule, writes: dict[fx.Node, fx.Node]) -> set[fx.Node]:
    """What the output depends on, by data or by a write to memory that it reads."""
    live = _ancestors(node for node in graph.graph.nodes if node.op == "output")
    while True:
        memories = {memory_of(node) for node in live}
        found = {node for node, base in writes.items() if base.op != "get_attr" and base in memories} - live
        if not found:
            return live
        live |= _ancestors(found)


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found
