"""ZeroQ: ranges from images that the float network dreams up, every weight rounded to its nearest code.

ZeroQ: A Novel Zero Shot Quantization Framework (Cai et al., CVPR 2020), arXiv 2001.00281; methods_generative_qat
section 2.2. With `images: {source: distilled}` no data is read; the method itself takes any images. The paper's
mixed precision is `weights.bits` of the recipe, for every method alike.

What differs from the paper, because here everything runs in integers: the authors quantize behind ReLU only, so that
the network's input, the inner input of a residual sum and the average in front of the classifier stay float.
Distilled images are no guide to the range of an average: batch norms know how a channel varies over images and
positions together, not how its average differs from image to image, and images that are optimised all alike have all
about the same one (ResNet-20: 1.0 at most, 4.5 with real images). An average never leaves the range of what is
averaged, so it gets that range.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import fx

from calib.context import Calibration
from calib.methods import method
from calib.parameters import Parameters
from calib.ranges import round_weights, search_ranges
from calib.work import Work, WorkFacts
from pipeline.dialect import LAYOUT, POOLS
from pipeline.graph import op_name, quantizer_of
from pipeline.grid import params_from_range
from pipeline.quantizer import Quantizer
from pipeline.stages import UnitLog


class ZeroqParameters(Parameters):
    """Args:
    widen: factor on the activation ranges. The paper has 1. Images that match means and deviations have shorter tails
        than real ones; where bits are many, a wider range costs less than what it saves from being cut.
    averages: range of an average: that of its `input`, or `searched` on the images like every other.
    """

    widen: float = Field(default=1.0, ge=1.0, le=4.0)
    averages: Literal["input", "searched"] = "input"


def _work(parameters: ZeroqParameters, facts: WorkFacts) -> Work:
    return facts.searched()


@method("zeroq", ZeroqParameters, needs={"images"}, work=_work)
def zeroq(calibration: Calibration, parameters: ZeroqParameters) -> tuple[UnitLog, ...]:
    """Search ranges, widen them, round every weight to its nearest code; nothing is learned."""
    search_ranges(calibration)
    ranges = {quantizer: _covered(quantizer) for quantizer in calibration.activations().values()}
    if parameters.averages == "input":
        for quantizer, averaged in _averages(calibration.graph).items():
            if quantizer in ranges:
                ranges[quantizer] = ranges.get(averaged) or _covered(averaged)
    for quantizer, (low, high) in ranges.items():
        ends = (end * parameters.widen for end in (low, high))
        quantizer.set_params(params_from_range(*ends, quantizer.spec))
    round_weights(calibration)
    return ()


def _covered(quantizer: Quantizer) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest value that the grid can hold."""
    grid, scale, zero_point = quantizer.spec.grid, quantizer.scale.detach(), quantizer.zero_point
    return (grid.qmin - zero_point) * scale, (grid.qmax - zero_point) * scale


def _averages(graph: fx.GraphModule) -> dict[Quantizer, Quantizer]:
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
