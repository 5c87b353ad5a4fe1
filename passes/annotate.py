"""Recipe x target -> `node.meta["quant"]`: the only place where the two meet, before any image is read.

An *anchor* is an operator that the target computes; its *tail* is the last activation fused behind it; a *point* is a
value that gets a grid of its own: a tail, the network input, or what a float operator hands to an integer one.
Every decision carries its reason for the placement table; what cannot be honoured is a `TargetError`.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from torch import fx

from pipeline.dialect import LAYOUT, MOVES, POOLS, WEIGHTED, gives_no_negatives, wide_operand
from pipeline.errors import RecipeError, TargetError, nearest_spelling
from pipeline.graph import absorbed, bound_args, is_constant, module_path, op_name, tensor_shape, where
from pipeline.grid import NESTED_CODES, Grid, QuantSpec, RangeSearch
from pipeline.layers import last_layers, layer_name, prepares_input
from pipeline.policy import policy_overrides
from pipeline.recipe import (
    MAX_BITS,
    OPERATOR,
    POSITIONS,
    ActivationRule,
    Override,
    Recipe,
    WeightRule,
    changed,
    weight_change,
)
from pipeline.target import OpRule, Target

# Operators whose result is an average or a rearrangement of their input: never negative where the input is not.
MONOTONE = LAYOUT | POOLS | {"cat", "add", "mul"}
# int8 codes of a codebook per channel; narrow, because every codebook has both signs.
CODEBOOK_BITS = 8
_PREPARED = "network input, normalised"
# All nested grids on one: codes 0 ... 105.
NESTED_GRID = Grid(7, signed=False, limit=NESTED_CODES)


@dataclass(frozen=True)
class Annotation:
    """What `insert_quantizers` does at a node.

    Args:
        output: spec of the quantizer behind the node; None for none.
        fixed: scale and zero point that the target prescribes for it.
        weight: spec of the quantizer on the node's weight.
        bias: the node's bias becomes int32.
        note: why the bits are what they are, where it is not simply the recipe's rule.
    """

    output: QuantSpec | None = None
    fixed: tuple[float, int] | None = None
    weight: QuantSpec | None = None
    bias: bool = False
    note: str = ""


def annotate(graph: fx.GraphModule, recipe: Recipe, target: Target) -> bool:
    """Write an `Annotation` on every node that gets a quantizer.

    Raises:
        TargetError: the target cannot honour the recipe; names the layer and the nearest legal choice.
        RecipeError: an override selects nothing, or nothing that it could change.
    """
    if recipe.placement not in target.placements:
        raise TargetError(
            f"target '{target.name}' cannot honour placement: {recipe.placement}", where=f"recipe '{recipe.name}'",
            allowed=", ".join(target.placements), hint="use placement: target, or --target reference",
        )
    plan = _Plan(graph, recipe, target)
    plan.check_overrides()
    for node in graph.graph.nodes:
        node.meta.pop("quant", None)
    for node, annotation in plan.points.items():
        node.meta["quant"] = annotation
    for node in plan.weighted:
        weight = plan.weight(node)
        if weight is not None:
            present = node.meta.get("quant", Annotation())
            bias = target.quantized_bias and bound_args(node)["bias"] is not None
            node.meta["quant"] = Annotation(present.output, present.fixed, weight, bias, present.note)
    return True


@dataclass(frozen=True)
class _Selection:
    """An override and what it selects: operators, and the points whose values enter and leave them."""

    override: Override
    nodes: set[fx.Node]
    entered: set[fx.Node]
    left: set[fx.Node]


class _Plan:
    """The questions that `annotate` asks of one graph; holds no decision of its own."""

    def __init__(self, graph: fx.GraphModule, recipe: Recipe, target: Target) -> None:
        self.recipe, self.target = recipe, target
        self._signs: dict[fx.Node, bool] = {}
        self._read: dict[fx.Node, bool] = {}
        self.nodes = [n for n in graph.graph.nodes if not is_constant(n)]
        self.weighted = [n for n in self.nodes if op_name(n) in WEIGHTED]
        if not self.weighted:
            raise TargetError("the model has no convolution or linear layer to quantize", where="the captured graph")
        self.preparing = _preparing(graph, self.weighted)
        self.names = {node: layer_name(node) for node in self.nodes}
        self.anchors = {self.chain(n)[-1]: n for n in reversed(self.nodes) if n.op == "call_function"}
        # The recipe's own come last and win; only they have to find something to change.
        self.own = [self._selection(override) for override in recipe.overrides]
        self.selections = [*(self._selection(override) for override in policy_overrides(recipe)), *self.own]
        self._ruled: dict[fx.Node, bool] = {}  # points under the recipe's rule: whether their bits are as well
        self.points = self._find_points()

    # -- structure ---------------------------------------------------------------------------------------------

    def rule(self, node: fx.Node) -> OpRule:
        return self.target.rule(op_name(node))

    def chain(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """`node` and the activations that the target fuses behind it; the last one is the tail."""
        return (node, *absorbed(node, self.rule(node).absorbs))

    def source(self, node: fx.Node) -> fx.Node:
        """Where the grid of a value comes from: `node`, looked up through layout operators."""
        while node.op == "call_function" and self.rule(node).output == "as_input":
            node = node.all_input_nodes[0]
        return node

    def consumers(self, node: fx.Node) -> list[fx.Node]:
        """The operators that compute with the value of `node`, through those that only hand it on."""
        found: list[fx.Node] = []
        for user in node.users:
            found.extend(self.consumers(user) if self.hands_on(user) else [user])
        return found

    def hands_on(self, node: fx.Node) -> bool:
        """`node` has no grid of its own: a layout operator, or a concatenation whose codes nobody computes with.

        The second leads to the network's output or to float operators only, so that each of its parts keeps the grid
        that suits it and what is laid out are the values.
        """
        if node.op != "call_function":
            return False
        output = self.rule(node).output
        return output == "as_input" or (output == "shared" and not self._is_read(node))

    def _is_read(self, node: fx.Node) -> bool:
        """An integer operator computes with the value, through what only moves it. Remembered, as signs are."""
        if node not in self._read:
            self._read[node] = any(
                self._is_read(user) if op_name(user) in MOVES or self.rule(user).output == "shared"
                else self.rule(user).inputs != "float"
                for user in node.users if user.op != "output"
            )
        return self._read[node]

    def _is_joined(self, node: fx.Node) -> bool:
        """A concatenation that hands values on lies behind `node`."""
        return any(
            self.rule(user).output == "shared" or self._is_joined(user) for user in node.users if self.hands_on(user)
        )

    # -- points ------------------------------------------------------------------------------------------------

    def _find_points(self) -> dict[fx.Node, Annotation]:
        """Every point with its annotation, in execution order."""
        found: dict[fx.Node, Annotation] = {}
        taken: set[fx.Node] = set()
        for node in self.nodes:
            if node in taken or node.op == "output":
                continue
            if node.op == "placeholder":
                annotation = self._input(node)
            elif self.hands_on(node):
                continue
            else:
                chain = self.chain(node)
                taken.update(chain)
                annotation, node = self._computed(node, chain[-1]), chain[-1]
            if annotation is not None:
                found[node] = annotation
        return found

    def _input(self, node: fx.Node) -> Annotation | None:
        if self.target.input_bits is None or not self._needed(node):
            return None
        return Annotation(self._spec(self.target.input_bits, symmetric=False), note="network input")

    def _needed(self, node: fx.Node) -> bool:
        """Some consumer wants this value on a grid."""
        on_grid = ("quantized", "residual")
        return any(self.rule(user).inputs in on_grid for user in self.consumers(node) if user.op != "output")

    def _computed(self, node: fx.Node, tail: fx.Node) -> Annotation | None:
        rule = self.rule(node)
        leaves = all(user.op == "output" for user in self.consumers(tail))
        is_logits = tail is node and op_name(node) == "linear" and not self._is_joined(node)
        if rule.inputs == "float" and self._needed(tail):
            return Annotation(self._spec(self.target.float_bits, self._positive(tail)), note="from a float operator")
        if rule.output == "none" or rule.inputs == "float":
            return None
        if leaves and (is_logits or self.target.input_bits is None):
            return None
        if self.target.input_bits is None and not self._wanted_by_papers(tail):
            return None
        if tail is node and any(wide_operand(user, self.target) is node for user in node.users):
            return None
        if rule.fixed is not None:
            return Annotation(self._spec(self.target.float_bits, True), rule.fixed, note="grid fixed by the operator")
        if node in self.preparing:
            bits = self.target.input_bits
            return None if bits is None else Annotation(self._spec(bits, self._positive(tail)), note=_PREPARED)
        rule, note = self._activation_rule(tail)
        prescribed = self._bits(node, tail)
        self._ruled[tail] = prescribed is None
        bits, note = prescribed or (rule.bits, note)
        positive = self._positive(tail)
        if rule.levels == "nested" and prescribed is None:
            if positive:
                return Annotation(self._nested(tail, rule), note=note)
            note = "; ".join(filter(None, (note, "uniform levels: can be negative")))
        symmetric = positive or rule.symmetric
        grid = Grid(bits, signed=symmetric and not positive)
        return Annotation(QuantSpec(grid, symmetric, None, _range_search(rule)), note=note)

    def _nested(self, tail: fx.Node, rule: ActivationRule) -> QuantSpec:
        axis = channel_axis(tail)
        if axis != 1:
            found = "cannot be told" if axis is None else f"are on axis {axis}"
            raise TargetError(
                f"levels: nested gives bits to channels on axis 1; here they {found}", where=where(tail),
                allowed="activations.levels: uniform", hint="or an override of this layer to 8 bits",
            )
        return QuantSpec(NESTED_GRID, True, None, _range_search(rule), "nested", rule.bits)

    def _wanted_by_papers(self, tail: fx.Node) -> bool:
        """Without integer runtime limits a linear tensor that only enters wide sums stays in float."""
        return any(self.rule(user).inputs != "accumulator" for user in self.consumers(tail) if user.op != "output")

    def _bits(self, node: fx.Node, tail: fx.Node) -> tuple[int, str] | None:
        """Bits that the target prescribes, and why; None where the recipe decides."""
        users = self.consumers(tail)
        if any(user.op == "output" for user in users):
            return self.target.float_bits, "network output"
        if any(self.rule(user).inputs == "float" for user in users):
            return self.target.float_bits, "enters a float operator"
        inner = [self.rule(user).inner_bits for user in users]
        if tail is node and op_name(node) in WEIGHTED and None not in inner:
            return max(inner), f"enters only {', '.join(sorted({op_name(user) for user in users}))}"
        return None

    def _positive(self, node: fx.Node) -> bool:
        """The value cannot be negative, by structure. Remembered: dense connections reach a node on many paths."""
        if node not in self._signs:
            name = op_name(node)
            self._signs[node] = gives_no_negatives(node) or (
                name in MONOTONE and all(self._positive(source) for source in node.all_input_nodes))
        return self._signs[node]

    def _points_into(self, layer: fx.Node) -> set[fx.Node]:
        """The points whose values reach the inputs of `layer` through pools and layout operators only."""
        found: set[fx.Node] = set()
        waiting = [source for source in layer.all_input_nodes if not is_constant(source)]
        while waiting:
            point = self.source(waiting.pop())
            found.add(point)
            anchor = self.anchors.get(point, point)
            if op_name(anchor) in POOLS:
                waiting.append(anchor.args[0])
            elif self.hands_on(anchor):
                waiting.extend(anchor.all_input_nodes)
        return found

    def _points_out_of(self, operator: fx.Node) -> set[fx.Node]:
        """The points that hold what leaves `operator`: behind its activation, and on through pools."""
        tail = self.chain(operator)[-1]
        # x * gate(x), a hard-swish in parts, is the activation of the layer before it.
        gated = [user for user in tail.users if op_name(user) == "mul" and any(
            tail in factor.all_input_nodes for factor in user.all_input_nodes)]
        found: set[fx.Node] = set()
        waiting = [tail, *gated]
        while waiting:
            point = waiting.pop()
            found.add(point)
            waiting.extend(self.chain(user)[-1] for user in self.consumers(point) if op_name(user) in POOLS)
        return found

    # -- specs -------------------------------------------------------------------------------------------------

    def _spec(self, bits: int, symmetric: bool) -> QuantSpec:
        """An unsigned grid that the target asks for, whatever the recipe's bits are."""
        return QuantSpec(Grid(bits, signed=False), symmetric, None, _range_search(self.recipe.activations))

    def _activation_rule(self, point: fx.Node) -> tuple[ActivationRule, str]:
        """The recipe's rule for a point, and which override gave it."""
        rule, note = self.recipe.activations, ""
        for chosen in self.selections:
            override = chosen.override
            if override.activations is not None and point in chosen.entered:
                rule, note = changed(rule, override.activations), f"input of {override.where}"
            if override.output is not None and point in chosen.left:
                rule, note = changed(rule, override.output), f"output of {override.where}"
        return rule, note

    def weight(self, node: fx.Node) -> QuantSpec | None:
        """Spec of a layer's weight; None where the target runs it in float."""
        if self.rule(node).inputs == "float":
            return None
        rule = self.recipe.weights
        if node in self.preparing:
            rule = changed(rule, weight_change(MAX_BITS))
        for chosen in self.selections:
            if chosen.override.weights is not None and node in chosen.nodes:
                rule = changed(rule, chosen.override.weights)
        rule = rule.at_widest()
        axis = 0 if rule.granularity == "per_channel" else None
        if rule.levels == "multibit":
            grid = Grid(CODEBOOK_BITS, signed=True, narrow=True, limit=self._limit(node, rule, CODEBOOK_BITS))
            return QuantSpec(grid, True, axis, _range_search(rule), "multibit", rule.bits)
        grid = Grid(rule.bits, signed=rule.symmetric, limit=self._limit(node, rule, rule.bits))
        return QuantSpec(grid, rule.symmetric, axis, _range_search(rule))

    def _limit(self, node: fx.Node, rule: WeightRule, bits: int) -> int | None:
        """The limit of this layer's codes of `bits`; raises where the kernels cannot hold an asymmetric weight."""
        limits = self.target.weights
        layer = f"recipe '{self.recipe.name}', layer {layer_name(node)} ({where(node)})"
        if not limits.zero_points and not rule.symmetric and rule.bits > 7:
            raise TargetError(
                f"target '{self.target.name}' stores weights with zero point 0; {rule.bits}-bit asymmetric weights do "
                "not fit int8", where=layer, allowed="symmetric: true, or asymmetric weights of 7 bits or fewer",
                hint="--set weights.symmetric=true (or in the override of this layer), or --target reference",
            )
        wide = self._input_bits(node) >= 8 and limits.wide_limit is not None
        if not wide or (1 << bits) // (2 if rule.symmetric else 1) <= limits.wide_limit:
            return None
        if not rule.symmetric:
            raise TargetError(
                f"profile '{self.target.profile}' keeps weight codes to +-{limits.wide_limit} behind 8-bit "
                f"activations; {rule.bits}-bit asymmetric weights exceed that", where=layer,
                allowed="symmetric: true, fewer weight bits, or another --device-profile",
                hint=limits.wide_limit_reason,
            )
        return limits.wide_limit

    def _input_bits(self, node: fx.Node) -> int:
        annotation = self.points.get(self.source(node.args[0]))
        return annotation.output.grid.bits if annotation is not None and annotation.output is not None else 8

    # -- overrides ---------------------------------------------------------------------------------------------

    def _selection(self, override: Override) -> _Selection:
        nodes = self._selected(override.where)
        entered = {point for node in nodes for point in self._points_into(node)}
        return _Selection(override, nodes, entered, {point for node in nodes for point in self._points_out_of(node)})

    def _selected(self, pattern: str) -> set[fx.Node]:
        """The operators that the `where` of an override names."""
        if pattern in POSITIONS:
            return self._positioned()[pattern]
        operators = [n for n in self.nodes if n.op == "call_function"]
        if pattern.startswith(OPERATOR):
            return {n for n in operators if op_name(n) == pattern.removeprefix(OPERATOR)}
        return {n for n in operators if _matches(self.names[n], pattern) or _matches(module_path(n), pattern)}

    def _positioned(self) -> dict[str, set[fx.Node]]:
        """What `first`, `penultimate` and `last` are: the first layer that learned, the last of every head."""
        last = last_layers(self.weighted)
        first = [node for node in self.weighted if node not in self.preparing][:1]
        before = [node for node in self.weighted if node not in last][-1:]
        return dict(zip(POSITIONS, map(set, (first, before, last)), strict=True))

    def check_overrides(self) -> None:
        """An override of the recipe that changes nothing is a mistake in it, not a wish to be dropped."""
        recipe = f"recipe '{self.recipe.name}'"
        for chosen in self.own:
            pattern = chosen.override.where
            if not chosen.nodes:
                names = sorted({self.names[n] for n in self.weighted})
                known = [*POSITIONS, *names, *sorted({module_path(n) for n in self.nodes} - {""}),
                         *sorted({OPERATOR + op_name(n) for n in self.nodes if n.op == "call_function"})]
                raise RecipeError(
                    f"override where: {pattern} selects nothing in this model", where=recipe,
                    allowed=f"first, penultimate, last, op:<operator>, or a pattern of layer names "
                    f"({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})",
                    hint=nearest_spelling(pattern, known),
                )
            if missing := self._without_effect(chosen):
                raise RecipeError(
                    f"override where: {pattern} states {missing}", where=recipe,
                    allowed="weights of layers, activations that enter an operator with a quantizer in front, and "
                    "output with a quantizer behind whose bits the target leaves to the recipe",
                    hint="select the layer itself: an activation function is computed with the layer before it",
                )

    def _without_effect(self, chosen: _Selection) -> str:
        """Which part of an override can change nothing in this graph, and why; empty where all can."""
        override = chosen.override
        if override.output is not None:
            more_than_bits = bool(override.output.model_dump(exclude={"bits"}, exclude_none=True))
            ruled = [point for point in chosen.left if point in self._ruled]
            if not any(self._ruled[point] or more_than_bits for point in ruled):
                return "output, but no tensor whose bits the recipe decides leaves what it selects"
        on_grid = any(point in self.points or point.op == "placeholder" for point in chosen.entered)
        if override.activations is not None and not on_grid:
            return "activations, but no tensor on a grid enters what it selects"
        if override.weights is not None and chosen.nodes.isdisjoint(self.weighted):
            return "weights, but selects no convolution or linear layer"
        return ""


def _preparing(graph: fx.GraphModule, weighted: list[fx.Node]) -> set[fx.Node]:
    """The layers that only bring the input into the form that the first learned layer reads; none if all would be."""
    buffers = {name for name, _ in graph.named_buffers()}
    found: set[fx.Node] = set()
    for node in weighted:
        if prepares_input(node, found, buffers):
            found.add(node)
    return found if len(found) < len(weighted) else set()


def channel_axis(node: fx.Node) -> int | None:
    """The axis of a value on which the channels lie; None where a layout operator hides it."""
    name = op_name(node)
    sources = [source for source in node.all_input_nodes if not is_constant(source)]
    if node.op != "call_function" or name in WEIGHTED or not sources:
        return 1
    if name.startswith("linear_"):
        return len(tensor_shape(node)) - 1
    axis = channel_axis(sources[0])
    if name == "view":
        return _axis_behind_view(axis, tensor_shape(sources[0]), tensor_shape(node))
    if name == "permute" and axis is not None:
        rank = len(tensor_shape(node))
        return [dim % rank for dim in bound_args(node)["dims"]].index(axis)
    return axis


def _axis_behind_view(axis: int | None, before: tuple[int | None, ...], after: tuple[int | None, ...]) -> int | None:
    """An axis with everything in front of it untouched stays; features and maps have channels of their own."""
    if axis is not None and before[:axis + 1] == after[:axis + 1]:
        return axis
    return 1 if len(after) in (2, 4) else None


def _range_search(rule: WeightRule | ActivationRule) -> RangeSearch:
    """The rule's search; a parameter that it does not state is the search's default."""
    stated = {key: getattr(rule, key) for key in ("exponent", "percentile") if getattr(rule, key) is not None}
    return RangeSearch(rule.range, **stated)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern + ".*")
