"""What mixed precision chose: the bits of every layer, how sensitive each is, and every best choice at every size.

Sizes are those of the codes of all quantized weights, layers with fixed bits included; biases and scales are not
counted. Omega is a sum of sensitivities (`calib/mixed_precision/allocation.py`), in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isobit.pipeline.recipe.budget import BitBudget

MEGABYTE = 2**20  # of `budget_mb`, as in the papers' tables


@dataclass(frozen=True)
class Point:
    """One way to give bits to all layers: its size and the sum of its layers' sensitivities."""

    bytes: int
    omega: float


@dataclass(frozen=True)
class Allocation:
    """Weight bits by layer; keys are names of layers (`pipeline.graph.layers`), in execution order.

    Args:
        budget: what the recipe asked for.
        weights: number of weights, of every quantized layer.
        bits: of every quantized layer, those included whose bits the recipe fixes.
        sensitivities: bits -> omega of the layer alone, of the open layers; layers that share a weight share it.
        frontier: the choices that no other beats in both size and omega: sizes rise, omegas fall, strictly.
        chosen: the last point of the frontier within the budget.
        uniform: bits -> the point at which every open layer has them.
        images: how many images the sensitivities are means over.
    """

    budget: BitBudget
    weights: Mapping[str, int]
    bits: Mapping[str, int]
    sensitivities: Mapping[str, Mapping[int, float]]
    frontier: tuple[Point, ...]
    chosen: Point
    uniform: Mapping[int, Point]
    images: int

    @property
    def average(self) -> float:
        """Mean bits of the open layers, weighted by their numbers of weights."""
        size = sum(self.weights[path] * self.bits[path] for path in self.sensitivities)
        return size / sum(self.weights[path] for path in self.sensitivities)


def budget_text(budget: BitBudget) -> str:
    """`3 bits on average of 2, 3, 4, 8`, or `0.12 MB of ...`."""
    what = f"{budget.average:g} bits on average" if budget.average is not None else f"{budget.budget_mb:g} MB"
    return f"{what} of {', '.join(map(str, budget.options))}"
