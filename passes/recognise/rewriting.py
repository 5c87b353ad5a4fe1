"""What the recognitions share: a walk over the graph, new nodes and parameters, constants of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from isobit.pipeline.graph.nodes import finish, get_attribute, insert_call, set_attribute, tensor_shape

aten = torch.ops.aten
# What stands for a node, or None where it stays.
Rewrite = Callable[[fx.GraphModule, fx.Node], fx.Node | None]


def rewritten(graph: fx.GraphModule, rewrite: Rewrite) -> bool:
    """Ask `rewrite` about every call, the last first: what is outermost is found before its parts."""
    changed = False
    for node in reversed(list(graph.graph.nodes)):
        if node.op != "call_function" or not node.users:
            continue
        value = rewrite(graph, node)
        if value is not None:
            node.replace_all_uses_with(value)
            changed = True
    if changed:
        finish(graph)
    return changed


def call(graph: fx.GraphModule, node: fx.Node, target: Any, *args: Any, shape: Sequence[int | None] | None = None,
         **kwargs: Any) -> fx.Node:  # fmt: skip
    """A call before `node` with its origin, and its shape unless another is given."""
    new = insert_call(graph, node, target, args)
    new.kwargs = kwargs
    new.meta["shape"] = tensor_shape(node) if shape is None else tuple(shape)
    return new


def parameter(graph: fx.GraphModule, node: fx.Node, name: str, value: Tensor) -> fx.Node:
    """A `get_attr` of a new float32 parameter before `node`."""
    target = f"recognised.{node.name}.{name}"
    set_attribute(graph, target, value.float().contiguous())
    with graph.graph.inserting_before(node):
        made = graph.graph.create_node("get_attr", target)
    made.meta["shape"] = tuple(value.shape)
    return made


def is_call(value: object, *targets: object) -> bool:
    """The value is a node that calls one of `targets`."""
    return isinstance(value, fx.Node) and value.op == "call_function" and value.target in targets


def tensor_of(graph: fx.GraphModule, value: object) -> Tensor | None:
    """A constant operand as float64; None where it depends on the input."""
    if isinstance(value, fx.Node):
        return get_attribute(graph, value).detach().double() if value.op == "get_attr" else None
    return torch.tensor(float(value), dtype=torch.float64) if isinstance(value, int | float) else None


def number_of(graph: fx.GraphModule, value: object) -> float | None:
    """A constant operand that is one number, or many that are equal."""
    found = tensor_of(graph, value)
    if found is None or not found.numel() or bool((found != found.flatten()[0]).any()):
        return None
    return float(found.flatten()[0])


def tensor_and_number(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, float] | None:
    """The operands of a call of two in either order: what is computed, and the number."""
    if len(node.args) < 2:
        return None
    left, right = node.args[:2]
    for value, constant in ((left, right), (right, left)):
        number = number_of(graph, constant)
        if isinstance(value, fx.Node) and value.op != "get_attr" and number is not None:
            return value, number
    return None
