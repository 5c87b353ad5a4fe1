"""What a calibration costs before it starts: multiply-accumulates, and values that pass through memory.

A method and a source that makes images state their work in passes of images through the network (or through a
generator); `calib.estimate` turns the sum into seconds. Two numbers, because a deep convolution is bound by
multiplications and a depthwise one by the values that quantizers and activations touch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import fx

from pipeline.dialect import WEIGHTED
from pipeline.graph import bound_args, op_name, tensor_shape
from pipeline.stages import Quantized

# Passes, in units of one forward pass.
TRAINED = 3.0  # forwards, and the gradients by inputs and by parameters
STEERED = 2.0  # forwards, and the gradient by the inputs alone
# A range search tries many ranges on every value; measured for `mse` on ResNet-20, in forward passes of values.
SEARCH_PASSES = 8.0
# A walk over the units: the teacher, and the student before, after and hardened.
WALK_PASSES = 4.0


@dataclass(frozen=True)
class Work:
    """Args:
    macs: multiply-accumulates of convolutions and linear layers.
    values: outputs of these layers; what stands between them grows with it.
    """

    macs: float = 0.0
    values: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.values + other.values)

    def __mul__(self, times: float) -> Work:
        return Work(self.macs * times, self.values * times)


@dataclass(frozen=True)
class WorkFacts:
    """What the cost of a calibration depends on beside a method's parameters.

    Args:
        network: one image forwards through all layers.
        behind: the same, through what lies behind each unit, in execution order.
        images: for calibration.
        batch: images of one step, as the recipe says.
        wanted: images that the recipe asks its source for; 0 where the source knows.
        shape: (C, H, W) of an image.
        search: forward passes of values that one image costs in a range search.
    """

    network: Work
    behind: tuple[Work, ...]
    images: int
    batch: int
    wanted: int
    shape: tuple[int, ...]
    search: float

    def searched(self, images: int | None = None) -> Work:
        """Ranges searched on so many images, at most all; None for all."""
        count = self.images if images is None else min(images, self.images)
        return Work(self.network.macs, self.search * self.network.values) * count

    def walked(self) -> Work:
        """One walk over the units with all images, training apart."""
        return self.network * (WALK_PASSES * self.images)

    def steps(self, count: float, passes: float) -> Work:
        """So many steps of one batch through every unit."""
        return self.network * (count * self.batch * passes)


def network_work(graph: fx.GraphModule, names: Collection[str] | None = None) -> Work:
    """One image forwards through the weighted layers of `graph`, or those of its nodes that `names` holds."""
    total = Work()
    for node in graph.graph.nodes:
        if op_name(node) in WEIGHTED and (names is None or node.name in names):
            weight = bound_args(node)["weight"]
            values = math.prod(size for size in tensor_shape(node) if size is not None)
            total += Work(values * math.prod(size for size in tensor_shape(weight)[1:] if size is not None), values)
    return total


def facts_of(quantized: Quantized, images: int) -> WorkFacts:
    """Read off the graph and the recipe.

    Args:
        images: how many calibration takes.
    """
    recipe, graph = quantized.recipe, quantized.graph
    units: Sequence[Work] = [network_work(graph, unit.nodes) for unit in quantized.units]
    behind = tuple(sum(units[place + 1 :], Work()) for place in range(len(units)))
    search = 1.0 if recipe.activations.range == "minmax" else SEARCH_PASSES
    return WorkFacts(
        network_work(graph), behind, images, recipe.images.batch_size, recipe.images.count,
        tuple(quantized.captured.input_shape), search,
    )
