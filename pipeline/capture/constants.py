"""Constants that a forward pass makes and then writes to, as masks of attention are made: worked out once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.node import map_arg

from isobit.pipeline.graph.nodes import computes_size, get_attribute, op_name, set_attribute, tensor_shape

# Operators that take of a tensor its type alone, or its shape too.
_NEW = frozenset({"new_zeros", "new_ones", "new_full"})
_LIKE = frozenset({"zeros_like", "ones_like", "full_like"})


def settle_constants(graph: fx.GraphModule) -> bool:
    """Replace in place what does not depend on the input by parameters; True where anything was.

    Does nothing unless some of it is written to after it was made: passes fold all other constants later. What reads
    a tensor before a write and what reads it after it get each their own.
    """
    walk = _Walk(graph)
    for node in graph.graph.nodes:
        walk.visit(node)
    if not walk.writes:
        return False
    for (node, source), value in walk.read.items():
        node.replace_input_with(source, walk.stored(source, value))
    for node in reversed(list(graph.graph.nodes)):
        if node in walk.known and node.op == "call_function":
            graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return True


class _Walk:
    """Evaluates in execution order what depends on no input.

    Attributes:
        known: the values of those nodes, which writes change.
        read: what each other node reads of them, as it was then.
        writes: whether any of them writes.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.known: dict[fx.Node, Any] = {}
        self.read: dict[tuple[fx.Node, fx.Node], Tensor] = {}
        self.writes = False
        self.attributes: dict[fx.Node, list[fx.Node]] = {}

    def visit(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.known[node] = get_attribute(self.graph, node).detach()
        elif isinstance(node.target, OpOverload) and _is_certain(node) and self._evaluate(node):
            self.writes |= node.target._schema.is_mutable
        else:
            for source in node.all_input_nodes:
                if source.op == "call_function" and isinstance(self.known.get(source), Tensor):
                    self.read[node, source] = self.known[source].clone()

    def _evaluate(self, node: fx.Node) -> bool:
        replaced: dict[fx.Node, Any] = {}
        if node.all_input_nodes and op_name(node) in _NEW | _LIKE:
            source = node.all_input_nodes[0]
            sizes = tensor_shape(source) if op_name(node) in _LIKE else ()
            if None in sizes or "val" not in source.meta:
                return False
            replaced[source] = torch.empty([size or 0 for size in sizes], dtype=source.meta["val"].dtype)
        if any(source not in self.known and source not in replaced for source in node.all_input_nodes):
            return False
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: replaced.get(source, self.known.get(source)))
        value = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
        if not isinstance(value, Tensor):
            return False
        self.known[node] = value
        return True

    def stored(self, node: fx.Node, value: Tensor) -> fx.Node:
        """A `get_attr` of `value`, which `node` had, in the place of `node`."""
        for other in self.attributes.get(node, ()):
            if torch.equal(get_attribute(self.graph, other), value):
                return other
        made = self.attributes.setdefault(node, [])
        target = f"constants.{node.name}_{len(made)}"
        set_attribute(self.graph, target, value)
        with self.graph.graph.inserting_before(node):
            made.append(self.graph.graph.create_node("get_attr", target))
        made[-1].meta["val"] = value
        return made[-1]


def _is_certain(node: fx.Node) -> bool:
    """The operator draws nothing, and its sizes do not follow from the batch."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags and not any(map(computes_size, node.all_input_nodes))
