"""Mixed precision: how sensitive each layer is to few bits, and the best bits under a size (ZeroQ, CVPR 2020).

The sensitivity of layer i at k bits, T being the float network and T[i<-k] the same with only the weights of layer i
quantized to k bits:

    omega_i(k) = (1/N) sum_n KL(softmax T(x_n) || softmax T[i<-k](x_n))

One-directional, the float network first, as in the paper; third-party code takes the mean of both directions. Networks
that give no classes have the distance of their predictions in its place (`calib.reconstruction.predictions`). What k
bits mean is what the recipe would make of them on the target (granularity, range search, symmetry, the target's
limits). Layers are taken to act independently, so a choice of bits costs the sum of its sensitivities, and the best
choice under a size is a multiple-choice knapsack. It is solved exactly, by dynamic programming over Pareto frontiers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from isobit.calib.cost import Cost, CostFacts
from isobit.calib.mixed_precision.visits import visits
from isobit.calib.ranges.observers import weight_params
from isobit.calib.reconstruction.boundary import batches
from isobit.pipeline.errors import CalibrationError, RecipeError
from isobit.pipeline.graph.calls import Call
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import get_attribute, nodes_by_name, quantizer_of, source_of, where
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.graph.subgraphs import channels_last
from isobit.pipeline.proof.observed import spread
from isobit.pipeline.quant.grid import QuantSpec
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer
from isobit.pipeline.recipe.allocation import MEGABYTE, Allocation, Point
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.samples.batching import BUDGET, evaluation_batch
from isobit.pipeline.samples.network_inputs import Inputs, part, sample_count
from isobit.pipeline.stages import Calibrated, Quantized

IMAGES = 256  # that sensitivities are means over, spread evenly over the calibration images

Specs = Mapping[str, QuantSpec]


@dataclass(frozen=True)
class Choice:
    """Layers that have the same bits, because they share a weight or a name; mostly a single layer.

    Args:
        weights: name of the layer -> number of weights; a weight with two quantizers counts twice, as in the manifest.
        specs: bits -> node of the weight's quantizer -> how that weight is quantized.
        fixed: the bits, where the recipe fixes them for one of the layers; None where they are open.
    """

    weights: Mapping[str, int]
    specs: Mapping[int, Specs]
    fixed: int | None = None

    def size(self, bits: int) -> int:
        """Bits of all its codes."""
        return bits * sum(self.weights.values())


def weight_specs(quantized: Quantized) -> Specs:
    """Node of every weight's quantizer -> its spec, in execution order."""
    return {weight.node.name: weight.quantizer.spec for weight in quantized_tensors(quantized.graph).weights()}


def find_choices(quantized: Quantized, options: Mapping[int, Specs]) -> tuple[Choice, ...]:
    """`choices_of` a recipe with a budget of bits.

    Raises:
        RecipeError: no choice is small enough for the budget.
    """
    choices = choices_of(quantized, options)
    _check_budget(quantized.recipe.weights.budget, choices)
    return choices


def choices_of(quantized: Quantized, options: Mapping[int, Specs]) -> tuple[Choice, ...]:
    """What the bits can be chosen of, in execution order.

    Args:
        options: bits -> `weight_specs` of the network with every open layer at these bits. A layer whose bits are the
            same in all of them is fixed.
    """
    layers = Layers(quantized.calls)
    names = {call: layers.name(call) for call in quantized.calls if call.constant and call.quantizer is not None}
    choices = []
    for group in _groups(names):
        specs = {bits: {weight.name: known[weight.name] for weight in group} for bits, known in options.items()}
        widths = [{known[weight.name].grid.bits for known in specs.values()} for weight in group]
        weights: dict[str, int] = {}
        for weight in group:
            weights[names[weight]] = weights.get(names[weight], 0) + weight.sources[0].tensor.numel()
        choices.append(Choice(weights, specs, max((min(one) for one in widths if len(one) == 1), default=None)))
    return tuple(choices)


def _groups(names: Mapping[Call, str]) -> list[list[Call]]:
    """Weights by what must have the same bits: one tensor, or one name of a layer, which is what an override says.

    Args:
        names: of the layer, by the weight's quantizer, in execution order.
    """
    groups: list[list[Call]] = []
    for weight, name in names.items():
        same = [group for group in groups if any(
            weight.sources[0].node.target == other.sources[0].node.target or name == names[other] for other in group)]
        groups = [group for group in groups if group not in same]
        groups.append([*(other for group in same for other in group), weight])
    return sorted((sorted(group, key=_place) for group in groups), key=lambda group: _place(group[0]))


def _place(call: Call) -> int:
    return call.place


def budget_size(budget: BitBudget, choices: Sequence[Choice]) -> int:
    """Most bits that the codes of all quantized weights may take."""
    if budget.average is None:
        return math.floor(budget.megabytes * MEGABYTE * 8)
    free = sum(choice.size(1) for choice in choices if choice.fixed is None)
    # A hair more, so that 2.1 bits of ten weights are 21 bits in binary fractions too.
    return _fixed_size(choices) + math.floor(budget.average * free * (1 + 2.0**-40))


def _fixed_size(choices: Sequence[Choice]) -> int:
    return sum(choice.size(choice.fixed) for choice in choices if choice.fixed is not None)


def _check_budget(budget: BitBudget, choices: Sequence[Choice]) -> None:
    free = sum(choice.size(1) for choice in choices if choice.fixed is None)
    smallest = _fixed_size(choices) + free * budget.options[0]
    if smallest > budget_size(budget, choices):
        need = math.ceil(smallest / (8 * MEGABYTE) * 1e4) / 1e4
        raise RecipeError(
            f"the weights cannot fit into {budget.budget_mb:g} MB: they take {smallest / (8 * MEGABYTE):.4f} MB with "
            f"every open layer at {budget.options[0]} bits", where="weights.bits.budget_mb",
            allowed=f"{need:.4f} or more",
            hint=f"raise the budget, allow fewer bits in weights.bits.options, or fix fewer bits: "
            f"{_fixed_size(choices) / (8 * MEGABYTE):.4f} MB belong to the policy and the overrides",
            field="recipe.weights.bits.budget_mb",
        )


def allocate(
    quantized: Quantized,
    choices: Sequence[Choice],
    images: Inputs,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    memory: float = BUDGET,
) -> Allocation:
    """The bits of every open layer that change the prediction least under the recipe's budget.

    Args:
        choices: of `find_choices`, at least one of them open.
        images: [N, ...] of every input; `IMAGES` of them are used, spread evenly.
        progress: is told how many of how many pieces of work are done.
        memory: bytes that a batch keeps to.

    Raises:
        CalibrationError: no images.
    """
    if not sample_count(images):
        raise CalibrationError(
            "a budget of bits is decided from images, and there are none", where="weights.bits",
            hint="give images, or state the bits as a number", field="calibration",
        )
    images = part(images, spread(sample_count(images), IMAGES))
    budget, free = quantized.recipe.weights.budget, [choice for choice in choices if choice.fixed is None]
    omegas = sensitivities(quantized, free, images, torch.device(device), progress, memory)
    frontier = pareto_frontier([
        [(choice.size(bits), omega) for bits, omega in known.items()]
        for choice, known in zip(free, omegas, strict=True)
    ])
    base = _fixed_size(choices)
    best = frontier.within(budget_size(budget, choices) - base)
    bits = {id(choice): budget.options[pick] for choice, pick in zip(free, frontier.picks(best), strict=True)}
    points = [_point(base + size, omega) for size, omega in zip(frontier.sizes, frontier.omegas, strict=True)]
    return Allocation(
        budget=budget,
        weights={path: number for choice in choices for path, number in choice.weights.items()},
        bits={
            path: bits[id(choice)] if choice.fixed is None else choice.fixed
            for choice in choices for path in choice.weights
        },
        sensitivities={path: known for choice, known in zip(free, omegas, strict=True) for path in choice.weights},
        frontier=tuple(points),
        chosen=points[best],
        uniform={
            k: _point(base + sum(choice.size(k) for choice in free), sum(known[k] for known in omegas))
            for k in budget.options
        },
        images=sample_count(images),
    )


def _point(size: int, omega: float) -> Point:
    return Point(-(-int(size) // 8), float(omega))


# --- sensitivity --------------------------------------------------------------------------------------------------


@torch.no_grad()
def sensitivities(
    quantized: Quantized | Calibrated, choices: Sequence[Choice], images: Inputs, device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None, memory: float = BUDGET,
) -> list[dict[int, float]]:
    """omega(k) of each choice at each of its bits, everything else in float: `predictions.answers_loss`.

    A batch of images at a time walks through the float network once, and before each layer through the rest of it
    once for each number of bits; memory holds the live values of one batch.
    """
    graph = channels_last(copy.deepcopy(quantized.graph).to(device))
    for module in graph.modules():
        if isinstance(module, Quantizer | BiasQuantizer):
            module.phase = Phase.OFF  # the float network
    nodes = nodes_by_name(graph)
    trials = [_Trial(graph, [nodes[name] for name in next(iter(choice.specs.values()))], choice) for choice in choices]
    found = [dict.fromkeys(choice.specs, 0.0) for choice in choices]
    parts = len(list(batches(sample_count(images), evaluation_batch(graph, memory))))
    seen = 0
    for visit in visits(graph, [trial.first for trial in trials], images, device, memory):
        for bits in found[visit.place]:
            with trials[visit.place].quantized(bits):
                changed = visit.answers(visit.run())
            found[visit.place][bits] += visit.loss(changed)
        progress(seen := seen + 1, parts * len(trials))
    return found


class _Trial:
    """The weights of one choice in a float graph, which are quantized for a while.

    Attributes:
        first: name of the first operator that reads one of them.
    """

    def __init__(self, graph: fx.GraphModule, nodes: Sequence[fx.Node], choice: Choice) -> None:
        self.first = next(iter(nodes[0].users)).name
        found = {node.name: quantizer_of(graph, node) for node in nodes}
        self._quantizers = {name: quantizer for name, quantizer in found.items() if quantizer is not None}
        self._specs = choice.specs
        self._params = {
            bits: {node.name: weight_params(get_attribute(graph, source_of(node)), specs[node.name], where(node))
                   for node in nodes}
            for bits, specs in choice.specs.items()
        }

    @contextmanager
    def quantized(self, bits: int) -> Iterator[None]:
        """Inside, the weights have these bits, rounded to nearest."""
        for name, quantizer in self._quantizers.items():
            quantizer.spec, quantizer.phase = self._specs[bits][name], Phase.ON
            quantizer.set_params(self._params[bits][name])
        try:
            yield
        finally:
            for quantizer in self._quantizers.values():
                quantizer.phase = Phase.OFF


# --- the best choice under a size ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frontier:
    """Every choice of one option a layer that no other beats in both size and omega.

    Args:
        sizes: int64, strictly rising.
        omegas: float64, strictly falling.
        steps: layer by layer, for each point of that layer's frontier: the point that it extends, and the option taken.
    """

    sizes: np.ndarray
    omegas: np.ndarray
    steps: tuple[tuple[np.ndarray, np.ndarray], ...]

    def within(self, size: int) -> int:
        """The last point of at most this size."""
        return int(np.searchsorted(self.sizes, size, side="right")) - 1

    def picks(self, point: int) -> list[int]:
        """The option that each layer has at a point."""
        picked = []
        for parents, options in reversed(self.steps):
            picked.append(int(options[point]))
            point = int(parents[point])
        return picked[::-1]


def pareto_frontier(layers: Sequence[Sequence[tuple[int, float]]]) -> Frontier:
    """The exact frontier, by dynamic programming.

    A point of the first i layers' frontier extends one of the first i - 1 layers', because a better beginning makes
    any end better: every point is extended by every option of layer i, and what is beaten goes.

    Args:
        layers: (size, omega) of every option of every layer.
    """
    sizes, omegas = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    for options in layers:
        added = np.array([size for size, _ in options], np.int64), np.array([omega for _, omega in options])
        sizes, omegas = (np.add.outer(own, more).ravel() for own, more in zip((sizes, omegas), added, strict=True))
        order = np.lexsort((omegas, sizes))
        falling = omegas[order]
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], falling[:-1]]))
        kept = order[falling < best_before]
        steps.append(((kept // len(options)).astype(np.int32), (kept % len(options)).astype(np.int8)))
        sizes, omegas = sizes[kept], omegas[kept]
    return Frontier(sizes, omegas, tuple(steps))


def allocation_cost(budget: BitBudget, facts: CostFacts) -> Cost:
    """Cost of measuring all sensitivities: every layer with each option, and the rest of the network after it."""
    images = min(IMAGES, facts.images)
    return sum(facts.after, facts.network) * (len(budget.options) * images)
