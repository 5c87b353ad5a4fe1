"""Quantizers in place for a target: what it refuses in integers is placed in float where it may be, else told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import fx

from isobit import passes
from isobit.backends.base import Backend
from isobit.pipeline.errors import CompileError, TargetError
from isobit.pipeline.graph.layers import after_layers
from isobit.pipeline.graph.nodes import TUPLE_ENTRY, computes_size, op_name, source_of, where
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Captured, Quantized
from isobit.pipeline.target import Target

MOST_NAMED = 3  # refused operators beside the first


def place(captured: Captured, recipe: Recipe, backend: Backend, profile: str | None, allow_float: bool) -> Quantized:
    """The network with its quantizers, all of it such as the backend can emit.

    Args:
        profile: None for the backend's default.
        allow_float: operators may be computed in float anywhere, by a target that asks for this.

    Raises:
        TargetError: there is no such profile; an operator that can be computed neither in integers nor in float.
        RecipeError: what the recipe asks for cannot be honoured on this network.
    """
    chosen = profile if profile is not None else backend.profiles[0]
    if chosen not in backend.profiles:
        raise TargetError(
            f"target '{backend.name}' has no device profile '{chosen}'", allowed=", ".join(backend.profiles),
            field="options.profile",
        )
    target = backend.target(chosen)
    target = target.with_float() if allow_float else target
    while True:
        quantized = passes.quantize(captured, recipe, target)
        refused = dict(backend.unsupported(quantized.graph, target))
        if not refused:
            return quantized
        tail = after_layers(quantized.graph)
        lasting = [node for node in refused if not _may_be_float(node, target, tail)]
        if lasting:
            helps = not allow_float and _is_placed(captured, recipe, backend, chosen)
            raise _refusal(backend, target, lasting, refused, helps)
        left = {node.name: reason for node, reason in refused.items()}
        if left.keys() <= target.left_float.keys():  # it is refused in float as well
            raise _refusal(backend, target, list(refused), refused)
        target = replace(target, left_float={**target.left_float, **left})


def _may_be_float(node: fx.Node, target: Target, tail: Collection[fx.Node]) -> bool:
    """Whether an operator that is not in float yet may be placed there."""
    if node.op != "call_function" or computes_size(node) or target.rule_of(node).inputs == "float":
        return False
    return target.float_operators == "anywhere" or (target.float_operators == "after_layers" and node in tail)


def _is_placed(captured: Captured, recipe: Recipe, backend: Backend, profile: str) -> bool:
    """Whether the network can be placed with operators in float anywhere."""
    try:
        place(captured, recipe, backend, profile, allow_float=True)
    except CompileError:
        return False
    return True


def _known_first(target: Target, nodes: Sequence[fx.Node], refused: Mapping[fx.Node, str]) -> tuple[fx.Node, str]:
    """The one of the refused `nodes` that a user knows, and what to say of it.

    Arithmetic on sizes, and constants that are made of them, stand for the operator that reads them: `lstm`, not the
    `zeros` of its first state.
    """
    made: set[fx.Node] = set()
    for node in nodes[0].graph.nodes:
        sources = node.all_input_nodes
        if computes_size(node) or (node.op == "call_function" and made.issuperset(sources)):
            made.add(node)
    known = [node for node in nodes if node not in made]
    if known:
        others = list(dict.fromkeys(str(node.target) for node in known if node.target != known[0].target))
        more = f"; nor {', '.join(others[:MOST_NAMED])}" if others else ""
        reason = refused[known[0]] + more + (" and others" if len(others) > MOST_NAMED else "")
        if op_name(known[0]) == TUPLE_ENTRY:  # of what an operator with several results gives
            operator = source_of(known[0])
            return operator, reason.replace(known[0].name, operator.name)
        return known[0], reason
    readers = _readers(nodes[0], made)
    if not readers:
        return nodes[0], refused[nodes[0]]
    return readers[0], target.rule_of(readers[0]).reason or f"it reads {nodes[0].target}: {refused[nodes[0]]}"


def _readers(node: fx.Node, made: Collection[fx.Node]) -> list[fx.Node]:
    """The operators that what is `made` of `node` is for, in the graph's order."""
    reached = {node}
    found: list[fx.Node] = []
    for later in node.graph.nodes:
        if later.op == "call_function" and reached.intersection(later.all_input_nodes):
            reached.add(later) if later in made else found.append(later)
    return found


def _refusal(
    backend: Backend, target: Target, nodes: Sequence[fx.Node], refused: Mapping[fx.Node, str],
    permission_helps: bool = False,
) -> TargetError:
    """What to raise for refused nodes.

    Args:
        permission_helps: the network can be placed with `options.allow_float`.
    """
    node, reason = _known_first(target, nodes, refused)
    if node.op == "placeholder":
        return TargetError(
            f"target '{backend.name}' cannot take this model: {reason}", where=where(node), field="target",
            hint="`target=onnx`, which takes inputs of any rank and may read them in float",
        )
    if target.float_operators == "after_layers" and node.op == "call_function":
        return TargetError(
            f"target '{backend.name}' cannot compute {node.target} in integers: {reason}", where=where(node),
            hint="`options.allow_float=True`, which leaves it in float, or replace the operator in the model"
            if permission_helps else "replace the operator in the model, or another target: `target=onnx`",
            field="target",
        )
    return TargetError(
        f"target '{backend.name}' can compute {node.target} neither in integers nor in float: {reason}",
        where=where(node), hint="replace the operator in the model, or `target=reference`", field="target",
    )
