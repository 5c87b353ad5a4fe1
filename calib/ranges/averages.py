"""Which range an average over space gets where images were made and not taken.

Images that are made to please batch norms are no guide to it: batch norms know how a channel varies over images and
positions together, not how its average differs from image to image, and images that are all made alike have all about
the same one (ZeroQ's on ResNet-20: 1.0 at most, 4.5 with real images). An average never leaves the range of what is
averaged, so it gets that range.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, fx

from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.dialect import POOLS
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import Target

Averages = Literal["input", "own"]  # the range of what is averaged; or one found like every other


def averaged_inputs(graph: fx.GraphModule, target: Target | None) -> dict[Quantizer, Quantizer]:
    """The quantizer of each average -> the one of what is averaged, in execution order, as far as both are there."""
    values, found = GridMap(target), dict[Quantizer, Quantizer]()
    for call in Calls(graph):
        quantizer = call.quantizer
        if quantizer is not None and call.sources[0].op in POOLS:
            averaged = values.quantizer(call.sources[0].sources[0])
            if averaged is not None and averaged is not quantizer:
                found[quantizer] = averaged
    return found


def covered(quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    """The least and the greatest value that the grid can hold."""
    grid, scale, zero_point = quantizer.spec.grid, quantizer.scale.detach(), quantizer.zero_point
    return (grid.qmin - zero_point) * scale, (grid.qmax - zero_point) * scale
