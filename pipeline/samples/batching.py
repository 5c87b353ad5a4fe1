"""How many samples go through a network at once: batches follow a budget of memory, read off the recorded shapes.

A batch changes no number but by the order in which a library sums: below 16 samples PyTorch takes other kernels. It
never exceeds `LARGEST_BATCH`, so that networks of small tensors have the same batches at every budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import fx

from isobit.pipeline.graph.calls import Call, Calls

BUDGET = 2 * 10**9  # bytes beside the model, the samples and one unit's caches
CACHE = 16 * 10**6  # bytes of live tensors that a processor walks over without waiting for memory
LARGEST_BATCH = 64
_FLOAT = 4
# Of the values that are alive at once, in float32: a layer's input padded or in another layout, a quantizer's copies.
_COPIES = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes of one sample's values in float32.

    Args:
        total: of every value of the graph.
        peak: of those that are alive at once, when each is dropped after its last reader.
    """

    total: int
    peak: int

    @property
    def forward(self) -> int:
        """What one forward pass takes."""
        return _COPIES * self.peak

    @property
    def proof(self) -> int:
        """What comparing every code takes: forward passes in float64, and several runs' codes of every tensor."""
        return self.total + 2 * self.forward


def footprint(graph: fx.GraphModule) -> Footprint:
    """Bytes that one sample takes in a graph with recorded shapes."""
    calls = Calls(graph)
    sizes = {call: _bytes_of(call) for call in calls if not call.is_output and not call.constant}
    last = {source: call for call in calls for source in call.sources}
    alive = peak = 0
    for call in calls:
        alive += sizes.get(call, 0)
        peak = max(peak, alive)
        alive -= sum(sizes.get(source, 0) for source in call.sources if last[source] is call)
    return Footprint(sum(sizes.values()), peak)


def _bytes_of(call: Call) -> int:
    return _FLOAT * math.prod(size for size in call.shape if size is not None)


def batch_size(sample: int, budget: float = BUDGET, most: int = LARGEST_BATCH) -> int:
    """Samples of one batch: the largest power of two up to `most` that keeps to the budget, and at least one.

    Args:
        sample: bytes that one sample takes.
        budget: bytes.
    """
    wanted = min(most, max(1, int(budget // max(sample, 1))))
    return 1 << (wanted.bit_length() - 1)


@dataclass(frozen=True)
class MemoryPlan:
    """How many samples go through the network at once.

    Args:
        budget: bytes.
        calibration, proof: samples of a batch in each of the two.
    """

    budget: float
    calibration: int
    proof: int

    @property
    def text(self) -> str:
        """One line for people."""
        return (f"memory: {self.calibration} images at once in calibration and {self.proof} in the proof keep to "
                f"{self.budget / 1e9:g} GB beside the model, the images and one unit's caches")

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return {"budget_bytes": int(self.budget), "calibration_batch": self.calibration, "proof_batch": self.proof}


def plan_memory(graph: fx.GraphModule, budget: float = BUDGET) -> MemoryPlan:
    """The batches of a quantized graph."""
    return MemoryPlan(budget, evaluation_batch(graph, budget), proof_batch(graph, budget))


def proof_batch(graph: fx.GraphModule, budget: float = BUDGET) -> int:
    """Samples that are proven at once: within the budget, and with tensors that stay in the processor's cache."""
    found = footprint(graph)
    return min(batch_size(found.proof, budget), batch_size(found.peak, CACHE))


def evaluation_batch(graph: fx.GraphModule, budget: float = BUDGET) -> int:
    """Samples of one forward pass while a network is calibrated."""
    return batch_size(footprint(graph).forward, budget)
