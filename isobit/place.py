"""Quantizers in place for a target: what it refuses in integers is placed in float where it may be, else told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from isobit import passes
from isobit.backends.base import Backend
from isobit.pipeline.errors import CompileError, TargetError
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.ends.decoding import decodes
from isobit.pipeline.graph.layers import after_layers
from isobit.pipeline.graph.nodes import TUPLE_ENTRY
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
    try:
        return _placed(captured, recipe, backend, target, allow_float)
    except _Undecoded as undecoded:
        refusal = undecoded.refusal
    ended = passes.without_decoding(captured)
    try:
        return _placed(ended, recipe, backend, target, allow_float)
    except TargetError:
        raise refusal from None


class _Undecoded(Exception):
    """A target cannot compute in float what decodes answers; `refusal` says what."""

    def __init__(self, refusal: TargetError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def _placed(captured: Captured, recipe: Recipe, backend: Backend, target: Target, allow_float: bool) -> Quantized:
    """The same for one target.

    Raises:
        TargetError: see `place`.
        _Undecoded: nothing is refused but operators after the cut, which decode.
    """
    while True:
        quantized = passes.quantize(captured, recipe, target)
        refused = dict(backend.unsupported(quantized.graph, target))
        if not refused:
            return quantized
        calls = Calls(quantized.graph)
        told = {calls[node]: reason for node, reason in refused.items()}
        tail = after_layers(calls)
        lasting = [call for call in told if not _may_be_float(call, target, tail)]
        if lasting:
            if all(decodes(call.node) for call in lasting):
                raise _Undecoded(_refusal(backend, target, calls, lasting, told))
            helps = not allow_float and _is_placed(captured, recipe, backend, target.profile)
            raise _refusal(backend, target, calls, lasting, told, helps)
        left = {call.name: reason for call, reason in told.items()}
        if left.keys() <= target.left_float.keys():  # it is refused in float as well
            raise _refusal(backend, target, calls, list(told), told)
        target = replace(target, left_float={**target.left_float, **left})


def _may_be_float(call: Call, target: Target, tail: Collection[Call]) -> bool:
    """Whether an operator that is not in float yet may be placed there."""
    if not call.op or call.is_size or target.rule_of(call).inputs == "float":
        return False
    return target.float_operators == "anywhere" or (target.float_operators == "after_layers" and call in tail)


def _is_placed(captured: Captured, recipe: Recipe, backend: Backend, profile: str) -> bool:
    """Whether the network can be placed with operators in float anywhere."""
    try:
        place(captured, recipe, backend, profile, allow_float=True)
    except CompileError:
        return False
    return True


def _known_first(
    target: Target, calls: Calls, chosen: Sequence[Call], refused: Mapping[Call, str]
) -> tuple[Call, str]:
    """The one of the refused and `chosen` that a user knows, and what to say of it.

    Arithmetic on sizes, and constants that are made of them, stand for the operator that reads them: `lstm`, not the
    `zeros` of its first state.
    """
    made: set[Call] = set()
    for call in calls:
        if call.is_size or (call.op and made.issuperset(call.sources)):
            made.add(call)
    known = [call for call in chosen if call not in made]
    if known:
        _, *others = dict.fromkeys(str(call.node.target) for call in known)
        more = f"; nor {', '.join(others[:MOST_NAMED])}" if others else ""
        reason = refused[known[0]] + more + (" and others" if len(others) > MOST_NAMED else "")
        if known[0].op == TUPLE_ENTRY:  # of what an operator with several results gives
            operator = known[0].sources[0]
            return operator, reason.replace(known[0].name, operator.name)
        return known[0], reason
    readers = _readers(calls, chosen[0], made)
    if not readers:
        return chosen[0], refused[chosen[0]]
    said = target.rule_of(readers[0]).reason
    return readers[0], said or f"it reads {chosen[0].node.target}: {refused[chosen[0]]}"


def _readers(calls: Calls, call: Call, made: Collection[Call]) -> list[Call]:
    """The operators that what is `made` of `call` is for, in the graph's order."""
    reached = {call}
    found: list[Call] = []
    for later in calls:
        if later.op and reached.intersection(later.sources):
            reached.add(later) if later in made else found.append(later)
    return found


def _refusal(
    backend: Backend, target: Target, calls: Calls, chosen: Sequence[Call], refused: Mapping[Call, str],
    permission_helps: bool = False,
) -> TargetError:
    """What to raise for what is refused and `chosen`.

    Args:
        permission_helps: the network can be placed with `options.allow_float`.
    """
    kept = next((call for call in chosen if call.float_override), None)
    if kept is not None:
        return _kept_by_recipe(backend, target, kept, refused[kept], permission_helps)
    call, reason = _known_first(target, calls, chosen, refused)
    if call.is_input:
        return TargetError(
            f"target '{backend.name}' cannot take this model: {reason}", where=call.where, field="target",
            hint="`target=onnx`, which takes inputs of any rank and may read them in float",
        )
    if target.float_operators == "after_layers" and call.op:
        return TargetError(
            f"target '{backend.name}' cannot compute {call.node.target} in integers: {reason}", where=call.where,
            hint="`options.allow_float=True`, which leaves it in float, or replace the operator in the model"
            if permission_helps else "replace the operator in the model, or another target: `target=onnx`",
            field="target",
        )
    return TargetError(
        f"target '{backend.name}' can compute {call.node.target} neither in integers nor in float: {reason}",
        where=call.where, hint="replace the operator in the model, or `target=reference`", field="target",
    )


def _kept_by_recipe(
    backend: Backend, target: Target, call: Call, reason: str, permission_helps: bool
) -> TargetError:
    """What to raise for an operator that an override keeps in float, where the target cannot."""
    more = "" if reason == call.kept_float else f": {reason}"
    after = target.float_operators == "after_layers"
    return TargetError(
        f"target '{backend.name}' does not compute {call.node.target} in float here, as an override of the recipe asks "
        f"for{more}", where=f"override where: {call.float_override} with float: true; {call.where}",
        field="recipe.overrides",
        allowed="float: true for operators after the last layer" if after else "",
        hint="`options.allow_float=True`, which computes it in float, or leave the override out"
        if permission_helps else "leave the override out, or another target: `target=onnx`",
    )
