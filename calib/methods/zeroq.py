"""ZeroQ: ranges from images that the float network dreams up, every weight rounded to its nearest code.

ZeroQ: A Novel Zero Shot Quantization Framework (Cai et al., CVPR 2020), arXiv 2001.00281.
With `images: {source: distilled}` no data is read; the method itself takes any images. The paper's
mixed precision is `weights.bits` of the recipe, for every method alike.

What differs from the paper, because here everything runs in integers: the authors quantize after ReLU only, so that
the network's input, the inner input of a residual sum and the average before the classifier stay float. The range
of that average is `calib.ranges.averages`' business.
"""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.corrected import Corrected
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.ranges.averages import Averages, averaged_inputs, covered
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.pipeline.quant.grid import params_from_range
from isobit.pipeline.stages import UnitLog


class ZeroqParameters(Corrected):
    """Args:
    widen: factor on the activation ranges. The paper has 1. Images that match means and deviations have shorter tails
        than real ones; where bits are many, a wider range costs less than what it saves from being cut.
    averages: see `calib.ranges.averages`; `own` is searched on the images like every other.
    """

    widen: float = Field(default=1.0, ge=1.0, le=4.0)
    averages: Averages = "input"


def _cost(parameters: ZeroqParameters, facts: CostFacts) -> Cost:
    return facts.searched()


@method("zeroq", ZeroqParameters, needs={"images"}, cost=_cost)
def zeroq(calibration: Calibration, parameters: ZeroqParameters) -> tuple[UnitLog, ...]:
    """Search ranges, widen them, round every weight to its nearest code; nothing is learned."""
    search_ranges(calibration)
    ranges = {quantizer: covered(quantizer) for quantizer in calibration.activations().values()}
    if parameters.averages == "input":
        for quantizer, averaged in averaged_inputs(calibration.graph, calibration.target).items():
            if quantizer in ranges:
                ranges[quantizer] = ranges.get(averaged) or covered(averaged)
    for quantizer, (low, high) in ranges.items():
        quantizer.set_params(params_from_range(low * parameters.widen, high * parameters.widen, quantizer.spec))
    round_weights(calibration)
    return ()
