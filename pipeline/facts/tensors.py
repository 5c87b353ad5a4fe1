"""How well each tensor fits its grid: noise, values beyond the ends, histograms, rounding that was moved.

The float side is the network with all quantizers out, as calibration left its weights. A few samples suffice for
ratios and shapes; of a large tensor evenly spread values are taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from isobit.pipeline.facts.record import Histogram, TensorFacts
from isobit.pipeline.graph.nodes import bias_quantizer_of, get_attribute, is_constant, quantizer_of, source_of
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.proof.metrics.signal_to_noise import Noise
from isobit.pipeline.quant.grid import along
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.samples.network_inputs import Inputs, copied, in_numpy, part, sample_count, tensors
from isobit.pipeline.stages import Reference

POINTS = 1 << 16  # of a tensor and sample that are looked at
BINS, BEYOND = 64, 5  # of a histogram: on the grid, and beyond each of its ends
HEIGHT = 1000


@torch.no_grad()
def tensor_facts(reference: Reference, samples: Inputs) -> list[TensorFacts]:
    """Every quantized tensor in execution order.

    Args:
        samples: [N, ...] of every input, N >= 1; one goes through the network at a time.
    """
    graph = reference.graph
    sides = _BothSides(graph)
    for place in range(sample_count(samples)):
        sides.run(*tensors(copied(part(samples, slice(place, place + 1)))))
    found = []
    for tensor in quantized_tensors(graph):
        seen, flipped = sides.seen.get(tensor.name), None
        if tensor.is_weight:
            seen = _Seen(tensor.quantizer)
            weight = get_attribute(graph, tensor.source).detach()
            seen.add(weight)
            flipped = _flipped(tensor.quantizer, weight)
        if seen is not None:
            found.append(seen.facts(tensor.name, "weight" if tensor.is_weight else "activation", flipped))
    return found


def _flipped(quantizer: Quantizer, weight: Tensor) -> float | None:
    """Share of the codes that are not the nearest ones at the scales at which they were rounded; None where channels
    chose codes of their own.
    """
    if quantizer.channel_bits is not None:
        return None
    scale, zero_point = quantizer.aligned(weight)
    if quantizer.rounded_at is not None:
        scale = along(quantizer.rounded_at.to(weight), quantizer.spec.axis, weight.dim())
    nearest = quantizer.spec.grid.codes(weight, scale, zero_point, quantizer.multiples)
    return round(float((nearest != quantizer.decided).double().mean()), 6)


def spread_values(values: Tensor) -> Tensor:
    """[n], n about `POINTS` at most, evenly spread over the tensor and over none of its axes in particular."""
    step = -(-values.numel() // POINTS)
    while step > 1 and any(size % step == 0 for size in values.shape if size > 1):
        step += 1
    return values.flatten()[::step]


@dataclass
class _Seen:
    """What was seen of one tensor."""

    quantizer: Quantizer
    own: Noise = field(default_factory=Noise)
    network: Noise = field(default_factory=Noise)
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS + 2 * BEYOND, dtype=torch.float64))
    beyond: int = 0
    values: int = 0
    least: float = math.inf
    most: float = -math.inf

    def add(self, plain: Tensor, given: Tensor | None = None) -> None:
        """Count one sample.

        Args:
            plain: the float values.
            given: the frozen network's; None of a weight.
        """
        quantizer, wanted = self.quantizer, spread_values(plain)
        grid, per_tensor = quantizer.spec.grid, quantizer.spec.axis is None and quantizer.multiples is None
        alike = wanted if per_tensor and quantizer.codes is None else plain  # where each number is quantized alike
        scale, zero_point = quantizer.aligned(alike)
        places = spread_values(torch.nan_to_num(alike / scale + zero_point))
        self.own.add(in_numpy(spread_values(quantizer(alike))), in_numpy(wanted))
        if given is not None:
            self.network.add(in_numpy(spread_values(given)), in_numpy(wanted))
        low, high = self.ends
        self.counts += torch.histc(places.clamp(low, high).double(), len(self.counts), low, high)
        self.beyond += int(((places < grid.qmin - 0.5) | (places > grid.qmax + 0.5)).sum())
        self.values += len(places)
        ends = torch.aminmax(wanted)
        self.least, self.most = min(self.least, float(ends.min)), max(self.most, float(ends.max))

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the histogram, in codes: a little beyond those of the grid."""
        grid = self.quantizer.spec.grid
        margin = grid.levels * BEYOND / BINS
        return grid.qmin - 0.5 - margin, grid.qmax + 0.5 + margin

    def facts(self, name: str, kind: Any, flipped: float | None) -> TensorFacts:
        """What all samples come to."""
        grid, highest = self.quantizer.spec.grid, float(self.counts.max())
        heights = [round(HEIGHT * height / highest) if highest else 0 for height in self.counts.tolist()]
        known = math.isfinite(self.least) and math.isfinite(self.most)
        low, high = self.ends
        return TensorFacts(
            name=name, kind=kind, own=self.own.ratio, network=self.network.ratio, flipped=flipped,
            clipped=round(self.beyond / self.values, 6) if self.values else None, qmin=grid.qmin, qmax=grid.qmax,
            least=float(f"{self.least:.6g}") if known else None, most=float(f"{self.most:.6g}") if known else None,
            histogram=Histogram(low=low, high=high, heights=heights),
        )


class _BothSides(fx.Interpreter):
    """Runs the float and the frozen network together, and looks at every activation that has a grid.

    Attributes:
        seen: by the name of the quantizer's node.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.graph_module = graph
        self.seen: dict[str, _Seen] = {}
        self._constants: dict[fx.Node, tuple[Any, Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if is_constant(n):
            if n not in self._constants:
                self._constants[n] = self._both(n)
            return self._constants[n]
        return self._both(n)

    def _both(self, node: fx.Node) -> tuple[Any, Any]:
        """(float, frozen)"""
        if node.op in ("placeholder", "get_attr"):
            value = super().run_node(node)
            return value, value
        if node.op == "output":
            return None, None
        quantizer = quantizer_of(self.graph_module, node)
        if quantizer is None and bias_quantizer_of(self.graph_module, node) is None:
            return self._called(node, 0), self._called(node, 1)
        plain, frozen = self.env[source_of(node)][0], self._called(node, 1)
        if quantizer is not None and not is_constant(node):
            seen = self.seen.setdefault(node.name, _Seen(quantizer))
            seen.add(plain, frozen)
        return plain, frozen

    def _called(self, node: fx.Node, side: int) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self.env[source][side])
        return getattr(self, node.op)(node.target, args, kwargs)
