"""What a network predicts, for losses that compare predictions: which values, and whether they are classes or numbers.

Nobody names models here. Predictions are taken before what decodes them (`pipeline.graph.ends.decoding`), where a
difference is worth the same everywhere, and what they are follows from what stands after them and from shapes:

    before a softmax                     classes: one of them along its axis
    before a sigmoid                     scores: each of them yes or no
    a softmax that only weighs numbers   the weighted sum (the expectation over a box's bins)
    other values before the cut          numbers
    [N, C] of C > 1, the only output     classes
    maps side by side on one grid        of an output whose channels are no multiple of 4 beside one whose are, with no
                                         score function in sight: scores; boxes are four numbers

A softmax or sigmoid that ends an output before the cut (a single answer's activation; with no cut at all) makes that
output the classes or scores, as probabilities. Numbers on the grid of some scores - equal shapes but for the scores'
axis - are weighed by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

from isobit.pipeline.errors import RecipeError, nearest_spelling
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.ends.decoding import SCORES, SOFTMAXES, decodes, makes_scores
from isobit.pipeline.graph.grid_map import channel_axis, lays_out, moved_axis
from isobit.pipeline.graph.nodes import TUPLE_ENTRY
from isobit.pipeline.graph.ports import output_names

Kind = Literal["classes", "scores", "numbers"]
BOX = 4  # numbers of a box


@dataclass(frozen=True)
class Prediction:
    """One value that counts as a prediction.

    Args:
        node: its name in the graph.
        title: what a user knows it by: an output's name where it is one.
        kind: `classes`, one of those along `axis`; `scores`, each yes or no; `numbers`.
        axis: of the classes or scores; of numbers, the one along which they and the scores beside them differ.
        weighed_by: node of the scores on the same grid, for numbers; empty for none.
        probabilities: of classes and scores: the value is what a softmax or sigmoid made of logits.
    """

    node: str
    title: str
    kind: Kind
    axis: int = 1
    weighed_by: str = ""
    probabilities: bool = False

    @property
    def text(self) -> str:
        """What notes and reports say of it: `boxes: numbers, weighed by the float scores`."""
        return f"{self.title}: {self.kind}{', weighed by the float scores' if self.weighed_by else ''}"


def find_predictions(
    graph: fx.GraphModule, stated: Mapping[Kind, Sequence[str]] | None = None
) -> tuple[Prediction, ...]:
    """The predictions of a prepared or quantized graph, in execution order.

    Args:
        stated: names of outputs or nodes by what they are, where the recipe says it; the others are left out then.

    Raises:
        RecipeError: no output and no node has such a name, or one joins scores with other values.
    """
    calls = Calls(graph)
    named = {call.name: call for call in calls}
    found = _stated(calls, stated) if stated else _derived(calls)
    found = sorted(found, key=lambda each: named[each.node].place)
    judges = [each for each in found if each.kind != "numbers"]
    return tuple(_weighed(each, judges, named) if each.kind == "numbers" else each for each in found)


def gives_scores(graph: fx.GraphModule) -> dict[str, bool]:
    """By output of a prepared or quantized graph: its values are what a softmax or sigmoid gave, and no logits; a
    logarithm's are logits as well.
    """
    found = zip(output_names(graph), Calls(graph).outputs, strict=True)
    functions = {name: {source.op for source in _sources(call)} for name, call in found}
    return {name: ops <= SCORES - {"log_softmax"} for name, ops in functions.items()}


def _weighed(numbers: Prediction, judges: Sequence[Prediction], named: Mapping[str, Call]) -> Prediction:
    """With the first of the scores that lie on the same grid, if any does."""
    shape = named[numbers.node].shape
    judge = next((each for each in judges if _is_beside(shape, named[each.node].shape, each.axis)), None)
    return numbers if judge is None else replace(numbers, weighed_by=judge.node, axis=judge.axis)


def _is_beside(one: Sequence[int | None], other: Sequence[int | None], axis: int) -> bool:
    """Shapes of two values on one grid of positions: equal but for `axis`."""
    if len(one) != len(other) or len(one) < 3:
        return False
    return all(a == b for place, (a, b) in enumerate(zip(one, other, strict=True)) if place != axis)


# --- derived ------------------------------------------------------------------------------------------------------


def _derived(calls: Calls) -> list[Prediction]:
    """Score functions tell scores; everything else that leaves for decoding or for an output is numbers."""
    titles = _titles(calls)
    found: dict[Call, Prediction] = {}
    known: set[Call] = set()  # score functions whose values are predictions before them, or as an expectation
    for call in calls:
        if makes_scores(call) and decodes(call.node):
            expected = _expectation(call)
            value = call.inputs[0] if expected is None else expected
            kind = "numbers" if expected is not None else _kind(call.op)
            found[value] = Prediction(value.name, titles.get(call, value.name), kind, _class_axis(call))
            known.add(call)
    for value in _others(calls, found, known):
        found[value] = _judged(value, titles.get(value, value.name))
    kinds = {each.kind for each in found.values()}
    return list(found.values()) if kinds != {"numbers"} else _by_shape(found)


def _kind(function: str) -> Kind:
    return "scores" if function == "sigmoid" else "classes"


def _others(calls: Calls, found: Mapping[Call, Prediction], known: set[Call]) -> list[Call]:
    """The values that enter what decodes, or leave as an output, and are neither before nor after a score function."""
    values: dict[Call, None] = {}
    for call in calls:
        if call.is_output:
            sources: Sequence[Call] = calls.outputs
        elif decodes(call.node) and call not in known and not lays_out(call.op) and not call.is_size:
            sources = call.inputs
        else:
            continue
        for source in sources:
            values.update(dict.fromkeys(_plain(source, found, known)))
    return [value for value in values if value not in found and value.dtype.is_floating_point]


def _plain(value: Call, found: Mapping[Call, Prediction], known: set[Call]) -> Iterable[Call]:
    """The value itself where no decoding operator computed it; through joints and entries to their parts else."""
    if value.constant or value in found or value in known or value.is_size or value.is_input:
        return
    if not decodes(value.node):
        yield from _of_one_kind(value)
    elif lays_out(value.op) or value.op == TUPLE_ENTRY:
        for source in value.inputs:
            yield from _plain(source, found, known)


def _of_one_kind(value: Call) -> Iterable[Call]:
    """The value, or the parts of which it is joined where only some of them are scores."""
    if len({source.op if source.op in SCORES else "" for source in _sources(value)}) < 2:
        yield value
        return
    while value.op != "cat":  # there is one, because there are several sources
        value = value.inputs[0]
    for part in value.inputs:
        yield from _of_one_kind(part)


def _sources(value: Call) -> list[Call]:
    """What computed a value, through all that only lays it out, joins or quantizes it."""
    found: dict[Call, None] = {}
    waiting = [value]
    while waiting:
        call = waiting.pop()
        if call.inputs and (call.quantizer is not None or lays_out(call.op)):
            waiting.extend(call.inputs)
        else:
            found[call] = None
    return list(found)


def _judged(value: Call, title: str) -> Prediction:
    """Probabilities where a score function alone computed the value, and numbers else."""
    functions = {source.op for source in _sources(value)}
    if len(functions) != 1 or not functions <= SCORES:
        return Prediction(value.name, title, "numbers")
    (function,) = functions
    # The logarithm of a softmax gives the same softmax as its logits.
    return Prediction(
        value.name, title, _kind(function), _class_axis(value), probabilities=function != "log_softmax")


def _expectation(softmax: Call) -> Call | None:
    """The sum over bins that a softmax only weighs, after what lays it out; None where it is no such weight."""
    call = softmax
    for _ in range(8):
        users = call.readers
        if len(users) != 1:
            return None
        call = users[0]
        if call.op.startswith("mul") and len(call.inputs) == 1:
            ends = [user for user in call.readers if user.op.startswith("sum")]
            return _laid_out(ends[0]) if len(ends) == 1 and len(call.readers) == 1 else None
        if not lays_out(call.op) and call.quantizer is None:
            return None
    return None


def _laid_out(value: Call) -> Call:
    """The value as the operators after it read it: without the axis of bins, where that is taken away."""
    while len(value.readers) == 1 and lays_out((user := value.readers[0]).op) and len(user.inputs) == 1:
        value = user
    return value


def _class_axis(value: Call) -> int:
    """The axis of a value's classes: a softmax says it, else it is that of channels; 1 where that is lost."""
    axis = _followed(value)
    return axis if axis is not None and axis < len(value.shape) else 1


def _followed(value: Call) -> int | None:
    if value.op in SOFTMAXES:
        return value.args["dim"] % max(len(value.shape), 1)
    if value.inputs and (value.quantizer is not None or lays_out(value.op)):
        return moved_axis(_followed(value.inputs[0]), value)
    return channel_axis(value)


def _by_shape(found: Mapping[Call, Prediction]) -> list[Prediction]:
    """What shapes tell where no score function stands at the end."""
    if len(found) == 1:
        ((value, each),) = found.items()
        several = len(value.shape) == 2 and value.shape[1] != 1
        return [replace(each, kind="classes") if several else each]
    axes = {value: _class_axis(value) for value in found}
    judged = []
    for value, each in found.items():
        axis = axes[value]
        beside = [other for other in found if other is not value and axes[other] == axis
                  and _is_beside(value.shape, other.shape, axis)]
        boxes = any(_of_boxes(other.shape[axis]) for other in beside) and not _of_boxes(value.shape[axis])
        judged.append(replace(each, kind="scores", axis=axis) if boxes else each)
    return judged


def _of_boxes(channels: int | None) -> bool:
    return channels is not None and channels % BOX == 0


def _titles(calls: Calls) -> dict[Call, str]:
    """Names of outputs by the values that they are, through what only lays them out."""
    titles: dict[Call, str] = {}
    for name, call in zip(output_names(calls.graph), calls.outputs, strict=True):
        titles.setdefault(call, name)
        while lays_out(call.op) and len(call.inputs) == 1:
            call = call.inputs[0]
            titles.setdefault(call, name)
    return titles


# --- stated -------------------------------------------------------------------------------------------------------


def _stated(calls: Calls, stated: Mapping[Kind, Sequence[str]]) -> list[Prediction]:
    outputs = dict(zip(output_names(calls.graph), calls.outputs, strict=True))
    known = {call.name: call for call in calls if call.op or call.quantizer is not None} | outputs
    found: list[Prediction] = []
    for kind, names in stated.items():
        for name in names:
            if name not in known:
                raise RecipeError(
                    f"the network has no output and no node '{name}'", where="method.prediction",
                    allowed=f"the outputs {', '.join(outputs)}, or a node as the plan prints it",
                    hint=nearest_spelling(name, sorted(known)), field="recipe.method.prediction",
                )
            found.append(_as_stated(known[name], name, kind))
    return found


def _as_stated(value: Call, name: str, kind: Kind) -> Prediction:
    """What the user calls scores or classes is taken before the score function that made it, where one did."""
    sources = _sources(value)
    functions = {source.op if source.op in SCORES else "" for source in sources}
    if kind == "numbers" or functions == {""}:
        return Prediction(value.name, name, kind, _class_axis(value))
    if len(functions) > 1:
        raise RecipeError(
            f"'{name}' joins what {' and '.join(sorted(filter(None, functions)))} gave with other values",
            where="method.prediction", allowed=f"values that are all {kind}", field="recipe.method.prediction",
            hint=f"Name the parts: {', '.join(source.name for source in sources[:4])}.",
        )
    if len(sources) == 1 and decodes(sources[0].node):
        return Prediction(sources[0].inputs[0].name, name, kind, _class_axis(sources[0]))
    return Prediction(value.name, name, kind, _class_axis(value), probabilities=functions != {"log_softmax"})
