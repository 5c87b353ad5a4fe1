"""What choices of bits take, in bytes or milliseconds, and those of them that no other beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from isobit.analyze import Analysis
from isobit.calib.mixed_precision.allocation import Choice, Frontier, choices_of, pareto_frontier, weight_specs
from isobit.calib.mixed_precision.sensitivity import quantized_layers
from isobit.pipeline.graph.layers import Layers, is_depthwise
from isobit.pipeline.stages import Quantized
from isobit.pipeline.target import WeightLimits

STEP = 1e-4  # milliseconds that latencies are counted in


@dataclass(frozen=True)
class Sizes:
    """What choices of bits take.

    Args:
        choices: layers that have the same bits.
        limits: of the target's weights.
        depthwise: names of the layers that are depthwise convolutions.
        latencies: milliseconds of the whole network by bits; none where sizes count.
        shares: by the node of a weight's quantizer: its layers' share of all multiply-accumulates.
    """

    choices: tuple[Choice, ...]
    limits: WeightLimits
    depthwise: frozenset[str]
    latencies: Mapping[int, float]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, at_bits: Mapping[int, Quantized], analysis: Analysis, latencies: Mapping[int, float]) -> Sizes:
        """Takes the network with every open layer at these bits."""
        widest = at_bits[max(at_bits)]
        choices = choices_of(widest, {bits: weight_specs(placed) for bits, placed in at_bits.items()})
        layers = Layers(widest.calls)
        depthwise = frozenset(layers.name(layer) for layer in quantized_layers(widest.calls) if is_depthwise(layer))
        return cls(choices, widest.target.weights, depthwise, latencies, _shares(widest, analysis))

    @property
    def free(self) -> list[Choice]:
        """Those whose bits no override fixes."""
        return [choice for choice in self.choices if choice.fixed is None]

    def widths(self, known: Iterable[int]) -> list[int]:
        """What a uniform recipe may have of `known` bits, rising: of equal size in the artifact, the most."""
        stored = self.limits.stored_bits
        return list({(stored(bits), stored(bits, depthwise=True)): bits for bits in sorted(known)}.values())

    def stored(self, choice: Choice, bits: int) -> int:
        """Bits of all codes of a choice as the target stores them."""
        return sum(count * self.limits.stored_bits(bits, name in self.depthwise)
                   for name, count in choice.weights.items())

    def one(self, choice: Choice, bits: int) -> int:
        """What one choice takes: bits of its codes as the target stores them, or steps of `STEP`."""
        if not self.latencies:
            return self.stored(choice, bits)
        share = sum(self.shares.get(name, 0.0) for name in next(iter(choice.specs.values())))
        known = min(self.latencies, key=lambda other: abs(other - bits))  # an override may fix bits never measured
        return round(share * (self.latencies[known] - min(self.latencies.values())) / STEP)

    def cost(self, total: float) -> float:
        """Bytes or milliseconds of the sum of `one` over all choices."""
        return min(self.latencies.values()) + STEP * total if self.latencies else total / 8

    def bytes(self, bits: Mapping[str, int]) -> int:
        """Size of the weight codes as the target stores them."""
        return math.ceil(sum(self.stored(choice, width_of(choice, bits)) for choice in self.choices) / 8)

    def placed_bits(self, placed: Quantized) -> dict[str, int]:
        """Weight bits of every layer by its name, as `placed` has them."""
        known = weight_specs(placed)
        return {name: max(known[node].grid.bits for node in next(iter(choice.specs.values())))
                for choice in self.choices for name in choice.weights}


def width_of(choice: Choice, bits: Mapping[str, int]) -> int:
    """Bits of a choice, of all layers' bits by their names."""
    return bits[next(iter(choice.weights))]


@dataclass(frozen=True)
class Space:
    """The choices of bits that no other beats.

    Args:
        sizes: what they take.
        frontier: of the choices that are free.
        options: bits of each free choice, as `frontier` counts them.
        costs: of all layers at every point of the frontier: bytes of weight codes, or milliseconds.
    """

    sizes: Sizes
    frontier: Frontier
    options: tuple[tuple[int, ...], ...]
    costs: tuple[float, ...]

    @classmethod
    def of(cls, sizes: Sizes, losses: Sequence[Mapping[int, float]]) -> Space:
        """The frontier of `losses`: of each free choice, at the bits that it may get."""
        frontier = pareto_frontier([
            [(sizes.one(choice, bits), known[bits]) for bits in sorted(known)]
            for choice, known in zip(sizes.free, losses, strict=True)
        ])
        fixed = sum(sizes.one(choice, choice.fixed) for choice in sizes.choices if choice.fixed is not None)
        return cls(sizes, frontier, tuple(tuple(sorted(known)) for known in losses),
                   tuple(sizes.cost(float(size) + fixed) for size in frontier.sizes))

    def bits(self, point: int) -> dict[str, int]:
        """Weight bits of every layer by its name, at one point."""
        picked = iter(zip(self.options, self.frontier.picks(point), strict=True))
        found: dict[str, int] = {}
        for choice in self.sizes.choices:
            if choice.fixed is None:
                widths, place = next(picked)
                width = widths[place]
            else:
                width = choice.fixed
            found.update(dict.fromkeys(choice.weights, width))
        return found

def _shares(quantized: Quantized, analysis: Analysis) -> dict[str, float]:
    """By the node of a weight's quantizer: its layers' share of all multiply-accumulates."""
    weights = {layer.name: layer.args["weight"].name for layer in quantized_layers(quantized.calls)}
    total, found = sum(row.macs for row in analysis.layers) or 1.0, dict[str, float]()
    for row in analysis.layers:
        name = weights[row.node]
        found[name] = found.get(name, 0.0) + row.macs / total
    return found
