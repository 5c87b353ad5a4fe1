"""Which range an average over space gets where images were made and not taken.

Images that are made to please batch norms are no guide to it: batch norms know how a channel varies over images and
positions together, not how its average differs from image to image, and images that are all made alike have all about
the same one (ZeroQ's on ResNet-20: 1.0 at most, 4.5 with real images). An average never leaves the range of what is
averaged, so it gets that range.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, fx

from pipeline.dialect import LAYOUT, POOLS
from pipeline.graph import op_name, quantizer_of
from pipeline.quantizer import Quantizer

Averages = Literal["input", "own"]  # the range of what is averaged; or one found like every other


def averaged_inputs(graph: fx.GraphModule) -> dict[Quantizer, Quantizer]:
    """The quantizer of each average -> the one of what is averaged, in execution order, as far as both are there."""
    found: dict[Quantizer, Quantizer] = {}
    for node in graph.graph.nodes:
        quantizer = quantizer_of(graph, node)
        pool = node.args[0] if quantizer is not None else None
        if isinstance(pool, fx.Node) and pool.op == "call_function" and op_name(pool) in POOLS:
            averaged = _behind(graph, pool.args[0])
            if averaged is not None and averaged is not quantizer:
                found[quantizer] = averaged
    return found


def _behind(graph: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    """The quantizer whose codes arrive at `node`, moved or cut but not computed with; None where there is none."""
    while quantizer_of(graph, node) is None:
        if node.op != "call_function" or op_name(node) not in LAYOUT:
            return None
        node = node.args[0]
    return quantizer_of(graph, node)


def covered(quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    """The least and the greatest value that the grid can hold."""
    grid, scale, zero_point = quantizer.spec.grid, quantizer.scale.detach(), quantizer.zero_point
    return (grid.qmin - zero_point) * scale, (grid.qmax - zero_point) * scale
