"""What the overrides of a recipe and its policy select in one graph, and that each of the recipe's own has an effect.

The recipe's own come after the policy's and win; only they have to find something to change.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from isobit.passes.annotation.structure import Structure
from isobit.pipeline.errors import RecipeError, nearest_spelling
from isobit.pipeline.graph.calls import Call
from isobit.pipeline.graph.layers import is_depthwise
from isobit.pipeline.recipe.policy import policy_overrides
from isobit.pipeline.recipe.schema import OPERATOR, POSITIONS, ActivationRule, Override, Recipe, WeightRule, changed

DEPTHWISE = "depthwise_"  # op:depthwise_conv2d


@dataclass(frozen=True)
class Selection:
    """An override and what it selects: operators, and the points whose values enter and leave them."""

    override: Override
    calls: set[Call]
    entered: set[Call]
    left: set[Call]


class Selections:
    """All overrides of one recipe, in the order in which they are applied."""

    def __init__(self, structure: Structure, recipe: Recipe) -> None:
        self.structure, self.recipe = structure, recipe
        self.own = [self._selection(override) for override in recipe.overrides]
        self.all = [*(self._selection(override) for override in policy_overrides(recipe)), *self.own]

    def activation_rule(self, point: Call) -> tuple[ActivationRule, str]:
        """The recipe's rule for a point, and which override gave it."""
        rule, note = self.recipe.activations, ""
        for chosen in self.all:
            override = chosen.override
            if override.activations is not None and point in chosen.entered:
                rule, note = changed(rule, override.activations), f"input of {override.text}"
            if override.output is not None and point in chosen.left:
                rule, note = changed(rule, override.output), f"output of {override.text}"
        return rule, note

    def weight_rule(self, layer: Call, rule: WeightRule) -> WeightRule:
        """`rule` as the overrides change it for a layer."""
        for chosen in self.all:
            if chosen.override.weights is not None and layer in chosen.calls:
                rule = changed(rule, chosen.override.weights)
        return rule

    def in_float(self) -> dict[Call, str]:
        """The operators that the recipe keeps in float, with the override's `where`; empty where it says that they are
        not.

        Later lines win.
        """
        found: dict[Call, str] = {}
        for chosen in self.all:
            if chosen.override.float is not None:
                found.update(dict.fromkeys(chosen.calls, chosen.override.text if chosen.override.float else ""))
        return found

    def _selection(self, override: Override) -> Selection:
        calls = {call for pattern in override.patterns for call in self._selected(pattern)}
        entered = {point for call in calls for point in self.structure.points_into(call)}
        left = {point for call in calls for point in self.structure.points_out_of(call)}
        return Selection(override, calls, entered, left)

    def _selected(self, pattern: str) -> set[Call]:
        """The operators that the `where` of an override names."""
        if pattern in POSITIONS:
            return self._positioned()[pattern]
        operators, name = self.structure.operators, self.structure.layers.name
        if pattern.startswith(OPERATOR):
            return {call for call in operators if pattern.removeprefix(OPERATOR) in _operator_names(call)}
        return {call for call in operators if _matches(name(call), pattern) or _matches(call.module, pattern)}

    def _positioned(self) -> dict[str, set[Call]]:
        """What `first`, `penultimate` and `last` are: the first layer that learned, the last of every head."""
        layers, last = self.structure.layers, self.structure.layers.last()
        first = [layer for layer in layers if layer not in self.structure.preparing][:1]
        before = [layer for layer in layers if layer not in last][-1:]
        return dict(zip(POSITIONS, map(set, (first, before, last)), strict=True))

    def check(self, ruled: Mapping[Call, bool], points: Collection[Call]) -> None:
        """Refuse an override of the recipe that changes nothing: it is a mistake, not a wish to be dropped.

        Args:
            ruled: points under the recipe's rule -> whether their bits are as well.
            points: all that get a grid.

        Raises:
            RecipeError: an override that selects nothing, or nothing that it could change.
        """
        recipe = f"recipe '{self.recipe.name}'"
        for chosen in self.own:
            for pattern in chosen.override.patterns:
                self._check_selected(pattern, recipe)
            if missing := self._without_effect(chosen, ruled, points):
                raise RecipeError(
                    f"override where: {chosen.override.text} states {missing}", where=recipe,
                    allowed="weights of layers, activations that enter an operator with a quantizer before it, and "
                    "output followed by a quantizer whose bits the target leaves to the recipe",
                    hint="select the layer itself: an activation function is computed with the layer before it",
                    field="recipe.overrides",
                )

    def _check_selected(self, pattern: str, recipe: str) -> None:
        """Refuse a pattern that nothing in the graph matches."""
        if not self._selected(pattern):
            names = sorted({self.structure.layers.name(layer) for layer in self.structure.layers})
            operators = {name for call in self.structure.operators for name in _operator_names(call)}
            known = [*POSITIONS, *names, *sorted({call.module for call in self.structure.calls} - {""}),
                     *sorted(OPERATOR + name for name in operators)]
            raise RecipeError(
                f"override where: {pattern} selects nothing in this model", where=recipe,
                allowed=f"first, penultimate, last, op:<operator>, or a pattern of layer names "
                f"({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})",
                hint=nearest_spelling(pattern, known), field="recipe.overrides",
            )

    def _without_effect(
        self, chosen: Selection, ruled: Mapping[Call, bool], points: Collection[Call]
    ) -> str:
        """Which part of an override can change nothing in this graph, and why; empty where all can."""
        override = chosen.override
        if override.output is not None:
            more_than_bits = bool(override.output.model_dump(exclude={"bits"}, exclude_none=True))
            free = [point for point in chosen.left if point in ruled]
            if not any(ruled[point] or more_than_bits for point in free):
                return "output, but no tensor whose bits the recipe decides leaves what it selects"
        on_grid = any(point in points or point.is_input for point in chosen.entered)
        if override.activations is not None and not on_grid:
            return "activations, but no tensor on a grid enters what it selects"
        if override.weights is not None and chosen.calls.isdisjoint(self.structure.layers):
            return "weights, but selects no convolution or linear layer"
        return ""


def _operator_names(call: Call) -> tuple[str, ...]:
    """What `op:` calls it: a depthwise convolution is one of the convolutions, and has a name of its own."""
    return (call.op, DEPTHWISE + call.op) if is_depthwise(call) else (call.op,)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern + ".*")
