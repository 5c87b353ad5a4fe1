"""What a calibration costs before it starts: multiply-accumulates, and values that pass through memory.

A method and a source that makes images state their cost in passes of images through the network (or through a
generator); `calib.estimate` turns the sum into seconds. Two numbers, because a deep convolution is bound by
multiplications and a depthwise one by the values that quantizers and activations touch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from isobit.pipeline.graph.calls import Call
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.proof.parity import INFORMATION_SAMPLES
from isobit.pipeline.stages import Quantized

# Passes, in units of one forward pass.
TRAINED = 3.0  # forwards, and the gradients by inputs and by parameters
STEERED = 2.0  # forwards, and the gradient by the inputs alone
# A range search on a histogram runs twice and counts every value; measured for `mse` on EfficientNet-Lite0 and
# ResNet-20, in forward passes of values.
SEARCH_PASSES = 4.0
# What it costs however few images there are, in values: for each activation whose candidates are ranked on its
# histogram, and for each weight, which is fitted to its own values.
ACTIVATION_SEARCH = 7.5e6
WEIGHT_SEARCH = 300.0
# What proving a sample costs: forwards in float, calibrated, in integers and in the artifact, and the comparison.
PROOF = (3.5, 2.4)
# The same of the exact evaluation in float64 and of levels without integer kernels, on the few samples that they see.
INFORMATION_PROOF = (3.5, 7.5)
# A sweep over the units: the teacher, and the student before, after and hardened.
SWEEP_PASSES = 4.0


@dataclass(frozen=True)
class Cost:
    """Args:
    macs: multiply-accumulates of convolutions and linear layers.
    values: outputs of these layers; what stands between them grows with it.
    """

    macs: float = 0.0
    values: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.values + other.values)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.macs * times, self.values * times)


@dataclass(frozen=True)
class CostFacts:
    """What the cost of a calibration depends on beside a method's parameters.

    Args:
        network: one image forwards through all layers.
        after: the same, through what lies after each unit, in execution order.
        images: for calibration.
        batch: images of one step, as the recipe says.
        wanted: images that the recipe asks its source for; 0 where the source knows.
        shape: (C, H, W) of an image.
        search: forward passes of values that one image costs in a range search.
        fits: what a range search costs beside that, whatever the number of images.
    """

    network: Cost
    after: tuple[Cost, ...]
    images: int
    batch: int
    wanted: int
    shape: tuple[int, ...]
    search: float
    fits: Cost = Cost()

    def searched(self, images: int | None = None) -> Cost:
        """Ranges searched on so many images, at most all; None for all."""
        count = self.images if images is None else min(images, self.images)
        return Cost(self.network.macs, self.search * self.network.values) * count + self.fits

    def swept(self) -> Cost:
        """One sweep over the units with all images, training apart."""
        return self.network * (SWEEP_PASSES * self.images)

    def steps(self, count: float, passes: float) -> Cost:
        """So many steps of one batch through every unit."""
        return self.network * (count * self.batch * passes)

    def reconstructed(self, init_images: int | None, steps: float, passes: float) -> Cost:
        """Ranges searched once, and one sweep that trains every unit."""
        return self.searched(init_images) + self.swept() + self.steps(steps, passes)


def network_cost(layers: Iterable[Call], names: Collection[str] | None = None) -> Cost:
    """One image forwards through `layers`, or those of them whose nodes `names` holds."""
    total = Cost()
    for layer in layers:
        if names is None or layer.name in names:
            weight = layer.args["weight"].shape
            values = math.prod(size for size in layer.shape if size is not None)
            total += Cost(values * math.prod(size for size in weight[1:] if size is not None), values)
    return total


def facts_of(quantized: Quantized, images: int) -> CostFacts:
    """Read off the graph and the recipe.

    Args:
        images: how many calibration takes.
    """
    recipe, layers = quantized.recipe, Layers(quantized.calls)
    units: Sequence[Cost] = [network_cost(layers, unit.nodes) for unit in quantized.units]
    after = tuple(sum(units[place + 1 :], Cost()) for place in range(len(units)))
    ranked = {"mse", "mse_shrink"}
    activations = sum(call.quantizer is not None and not call.constant for call in quantized.calls)
    fits = ACTIVATION_SEARCH * activations * (recipe.activations.range in ranked)
    fits += WEIGHT_SEARCH * _weights(layers) * (recipe.weights.range in ranked)
    search = SEARCH_PASSES if recipe.activations.range in ranked | {"percentile"} else 1.0
    return CostFacts(
        network_cost(layers), after, images, recipe.images.batch_size, recipe.images.count,
        tuple(quantized.captured.input_shape), search, Cost(0.0, fits),
    )


def proof_cost(quantized: Quantized, samples: int) -> Cost:
    """Comparing every code of so many evaluation samples, at one optimisation level and a few of the others."""
    network = network_cost(Layers(quantized.calls))
    few = min(samples, INFORMATION_SAMPLES)
    return sum((
        Cost(network.macs * macs, network.values * values) * count
        for (macs, values), count in ((PROOF, samples), (INFORMATION_PROOF, few))
    ), Cost())


def _weights(layers: Iterable[Call]) -> int:
    """How many weights the layers have."""
    return sum(math.prod(size for size in layer.args["weight"].shape if size) for layer in layers)
