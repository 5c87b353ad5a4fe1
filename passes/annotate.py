"""Recipe x target -> an `Annotation` on every node: the only place where the two meet, before any image is read.

Every decision carries its reason for the placement table; what cannot be honoured is a `TargetError`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from isobit.passes.annotation.selections import Selections
from isobit.passes.annotation.stays_float import leave_float
from isobit.passes.annotation.structure import Structure
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.annotation import Annotation, Kind, annotation_of, keep_float, set_annotation
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import ACTIVATIONS, WEIGHTED, over_features, wide_operand
from isobit.pipeline.graph.ends.decoding import decodes, keep_in_integers
from isobit.pipeline.graph.grid_map import channel_axis
from isobit.pipeline.operators.arithmetic import of_kind
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.grid import Grid, QuantSpec, RangeSearch, Tensors
from isobit.pipeline.quant.grids import grid_kind, kinds_of
from isobit.pipeline.recipe.budget import MAX_BITS
from isobit.pipeline.recipe.schema import ActivationRule, Recipe, WeightRule, changed, weight_change
from isobit.pipeline.target import Target

_PREPARED = "network input, normalised"
# Operators that papers compute on sums as they are, so that a layer before them has no quantizer there.
_SUMS = of_kind("sum")
_GATES = UNARY.keys() - ACTIVATIONS  # before a product


def annotate(graph: fx.GraphModule, recipe: Recipe, target: Target) -> bool:
    """Write an `Annotation` on every node that gets a quantizer.

    Raises:
        TargetError: the target cannot honour the recipe; names the layer and the nearest legal choice. Nothing would be
            quantized.
        RecipeError: an override selects nothing, or nothing that it could change.
    """
    if recipe.placement not in target.placements:
        raise TargetError(
            f"target '{target.name}' cannot honour placement: {recipe.placement}", where=f"recipe '{recipe.name}'",
            allowed=", ".join(target.placements), field="recipe.placement",
            hint="use placement: target, or `target=reference`",
        )
    _check_kinds(recipe, target)
    calls = Calls(graph)
    kept = Selections(Structure(calls, target), recipe).in_float()
    for call in calls:
        override = kept.get(call, "")
        reason = f"recipe: {override}" if override else target.left_float.get(call.name, "")
        if call in kept and not reason:
            keep_in_integers(call.node)  # the recipe says so, whether it decodes or not
        if reason := reason or _after_cut(call.node, target):
            keep_float(call.node, reason, override)
    if target.float_operators == "anywhere":
        leave_float(calls, target, kept)
    plan = _Plan(Structure(calls, target), recipe, target)
    plan.selections.check(plan.ruled, plan.points)
    for call in calls:
        set_annotation(call.node, plan.points.get(call))
    for layer in plan.structure.layers:
        weight = plan.weight(layer)
        if weight is not None:
            bias = target.quantized_bias and layer.args["bias"] is not None
            set_annotation(layer.node, replace(plan.points.get(layer) or Annotation(), weight=weight, bias=bias))
    _check_integers(plan)
    return True


def _after_cut(node: fx.Node, target: Target) -> str:
    """Why an operator that decodes answers stays in float, on a target that has float operators."""
    reason = "" if target.float_operators == "nowhere" else decodes(node)
    return f"after the cut: {reason}" if reason else ""


def _check_kinds(recipe: Recipe, target: Target) -> None:
    """Refuse a kind of grid that the target's kernels do not hold."""
    parts: dict[Tensors, str] = {"weights": recipe.weights.levels, "activations": recipe.activations.levels}
    for part, levels in parts.items():
        if not target.holds(levels):
            held = [kind for kind in kinds_of(part) if target.holds(kind)]
            raise TargetError(
                f"target '{target.name}' has no kernels for {part}.levels: {levels}", where=f"recipe '{recipe.name}'",
                allowed=f"{part}.levels: {', '.join(held)}", field=f"recipe.{part}.levels",
                hint=f"`recipe.{part}.levels={held[0]}`, or another target",
            )


def _check_integers(plan: _Plan) -> None:
    """Refuse a plan in which no value and no weight is on a grid: there would be nothing to calibrate and to prove."""
    if any(annotation_of(call.node) for call in plan.structure.calls):
        return
    layers = plan.structure.layers
    first = next(iter(layers))
    raise TargetError(
        f"nothing of this network runs in integers on target '{plan.target.name}': its "
        f"{len(layers)} layer(s) stay in float, the first for this reason: {plan.rule(first).reason}",
        where=f"layer {layers.name(first)} ({first.where})", field="recipe.overrides",
        hint="leave a layer in integers: without `float: true`, or another target",
    )


class _Plan:
    """The decisions, each with its reason.

    Attributes:
        points: every point that gets a grid, with its annotation, in execution order.
        ruled: points under the recipe's rule -> whether their bits are as well.
    """

    def __init__(self, structure: Structure, recipe: Recipe, target: Target) -> None:
        self.structure, self.recipe, self.target = structure, recipe, target
        self.values, self.rule = structure.values, structure.rule
        self.selections = Selections(structure, recipe)
        self.ruled: dict[Call, bool] = {}
        self.points = self._find_points()

    def _find_points(self) -> dict[Call, Annotation]:
        """Every point with its annotation, in execution order."""
        found: dict[Call, Annotation] = {}
        taken: set[Call] = set()
        for call in self.structure.calls:
            if call in taken or call.is_output:
                continue
            if call.is_input:
                annotation = self._input(call)
            elif self.values.hands_on(call):
                continue
            else:
                chain = self.structure.chain(call)
                taken.update(chain)
                annotation, call = self._computed(call, chain[-1]), chain[-1]
            if annotation is not None:
                found[call] = annotation
        return found

    def _input(self, call: Call) -> Annotation | None:
        if self.target.input_bits is None or not call.dtype.is_floating_point or not self._needed(call):
            return None
        return Annotation(self._spec(self.target.input_bits, symmetric=False), "input", note="network input")

    def _needed(self, call: Call) -> bool:
        """Some consumer wants this value on a grid."""
        on_grid = ("quantized", "residual")
        return any(self.rule(user).inputs in on_grid for user in self.values.consumers(call) if not user.is_output)

    def _computed(self, call: Call, tail: Call) -> Annotation | None:
        rule = self.rule(call)
        leaves = all(user.is_output for user in self.values.consumers(tail))
        rows = self.target.float_lines or len(call.shape) == 2
        is_logits = rows and tail is call and over_features(call.op) and not self.structure.is_joined(call)
        if rule.inputs == "float" and self._needed(tail):
            spec = self._spec(self.target.float_bits, self.structure.is_positive(tail))
            return Annotation(spec, "float", note="from a float operator")
        if rule.output in ("none", "integers") or rule.inputs == "float":
            return None
        if leaves and (is_logits or self.target.input_bits is None):
            return None
        if self.target.input_bits is None and not self._wanted_by_papers(tail):
            return None
        if tail is call and any(wide_operand(user, self.target) is call for user in call.readers):
            return None
        fixed = self.rule(tail).fixed
        if fixed is not None:
            spec = self._spec(self.target.float_bits, True)
            return Annotation(spec, "fixed", fixed, note="grid fixed by the operator")
        if call in self.structure.preparing:
            bits = self.target.input_bits
            spec = None if bits is None else self._spec(bits, self.structure.is_positive(tail))
            return None if spec is None else Annotation(spec, "input", note=_PREPARED)
        return self._ruled(call, tail)

    def _ruled(self, call: Call, tail: Call) -> Annotation:
        """A grid under the recipe's rule, at its bits unless the target prescribes them."""
        rule, note = self.selections.activation_rule(tail)
        prescribed = self._bits(call, tail)
        self.ruled[tail] = prescribed is None
        kind: Kind = "own"
        bits, grids = rule.bits, grid_kind(rule.levels)
        if prescribed is not None:
            grids = Grid
            bits, kind, note = prescribed
        positive = self.structure.is_positive(tail)
        if not positive and not grids.negatives:
            grids, note = Grid, "; ".join(filter(None, (note, f"{Grid.kind} levels: can be negative")))
        if grids.own_bits:
            _check_channels(tail, grids)
        symmetric = positive or rule.symmetric
        grid = grids.make(bits, signed=symmetric and not positive)
        return Annotation(QuantSpec(grid, symmetric, None, _range_search(rule)), kind, note=note)

    def _wanted_by_papers(self, tail: Call) -> bool:
        """Without integer runtime limits a linear tensor that only enters wide sums stays in float."""
        users = [user for user in self.values.consumers(tail) if not user.is_output]
        return any(self.rule(user).inputs != "accumulator" for user in users)

    def _bits(self, call: Call, tail: Call) -> tuple[int, Kind, str] | None:
        """Bits that the target prescribes, of what kind, and why; None where the recipe decides."""
        users = self.values.consumers(tail)
        if any(user.is_output for user in users):
            return self.target.float_bits, "own", "network output"
        if any(self.rule(user).inputs == "float" for user in users):
            return self.target.float_bits, "own", "enters a float operator"
        inner = [bits for user in users if (bits := self.rule(user).inner_bits) is not None]
        readers = {user.op for user in users}
        layer = tail is call and call.op in WEIGHTED
        gate = tail.op in _GATES and readers <= of_kind("product")
        if (layer or gate) and len(inner) == len(users):
            return max(inner), "inner" if readers <= _SUMS else "own", f"enters only {', '.join(sorted(readers))}"
        return None

    def _spec(self, bits: int, symmetric: bool) -> QuantSpec:
        """An unsigned grid that the target asks for, whatever the recipe's bits are."""
        return QuantSpec(Grid(bits, signed=False), symmetric, None, _range_search(self.recipe.activations))

    def weight(self, call: Call) -> QuantSpec | None:
        """Spec of a layer's weight; None where the target runs it in float."""
        if self.rule(call).inputs == "float":
            return None
        rule = self.recipe.weights
        if call in self.structure.preparing:
            rule = changed(rule, weight_change(MAX_BITS))
        rule = self.selections.weight_rule(call, rule).at_widest()
        axis = 0 if rule.granularity == "per_channel" else None
        kind = grid_kind(rule.levels)
        limit = self._limit(call, rule, kind.container_bits(rule.fixed_bits))
        grid = kind.make(rule.fixed_bits, signed=rule.symmetric, limit=limit)
        return QuantSpec(grid, rule.symmetric, axis, _range_search(rule))

    def _limit(self, call: Call, rule: WeightRule, bits: int) -> int | None:
        """The limit of this layer's codes of `bits`; raises where the kernels cannot hold an asymmetric weight."""
        limits = self.target.weights
        layer = f"recipe '{self.recipe.name}', layer {self.structure.layers.name(call)} ({call.where})"
        if not limits.zero_points and not rule.symmetric and rule.fixed_bits > 7:
            raise TargetError(
                f"target '{self.target.name}' stores weights with zero point 0; {rule.bits}-bit asymmetric weights do "
                "not fit int8", where=layer, allowed="symmetric: true, or asymmetric weights of 7 bits or fewer",
                field="recipe.weights.symmetric",
                hint="`recipe.weights.symmetric=true` (or in the override of this layer), or `target=reference`",
            )
        if limits.wide_limit is None or self._input_bits(call) < 8:
            return None
        if (1 << bits) // (2 if rule.symmetric else 1) <= limits.wide_limit:
            return None
        if not rule.symmetric:
            raise TargetError(
                f"profile '{self.target.profile}' keeps weight codes to +-{limits.wide_limit} after 8-bit "
                f"activations; {rule.bits}-bit asymmetric weights exceed that", where=layer,
                allowed="symmetric: true, fewer weight bits, or another `options.profile`",
                field="recipe.weights.symmetric",
                hint=limits.wide_limit_reason,
            )
        return limits.wide_limit

    def _input_bits(self, call: Call) -> int:
        annotation = self.points.get(self.values.source(call.sources[0]))
        return annotation.output.grid.bits if annotation is not None and annotation.output is not None else 8


def _range_search(rule: WeightRule | ActivationRule) -> RangeSearch:
    """The rule's search; a parameter that it does not state is the search's default."""
    stated = {key: getattr(rule, key) for key in ("exponent", "percentile") if getattr(rule, key) is not None}
    return RangeSearch(rule.range, **stated)


def _check_channels(tail: Call, kind: type[Grid]) -> None:
    """Bits for each channel need channels on axis 1."""
    axis = channel_axis(tail)
    if axis != 1:
        found = "cannot be told" if axis is None else f"are on axis {axis}"
        raise TargetError(
            f"levels: {kind.kind} gives bits to channels on axis 1; here they {found}", where=tail.where,
            allowed=f"activations.levels: {Grid.kind}", hint="or an override of this layer to 8 bits",
            field="recipe.activations.levels",
        )
