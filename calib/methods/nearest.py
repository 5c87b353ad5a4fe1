"""Rounding to nearest after a range search: the baseline of every table, and enough at 8 bits.

Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (2018), arXiv 1806.08342; Nagel et al.,
A White Paper on Neural Network Quantization (2021), arXiv 2106.08295, section 3.1.
"""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.corrected import Corrected
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.pipeline.stages import UnitLog


class NearestParameters(Corrected):
    """Args:
    init_images: how many images the ranges see; None for all calibration images.
    """

    init_images: int | None = Field(default=None, ge=1)


def _cost(parameters: NearestParameters, facts: CostFacts) -> Cost:
    return facts.searched(parameters.init_images)


@method("nearest", NearestParameters, needs={"images"}, cost=_cost)
def nearest(calibration: Calibration, parameters: NearestParameters) -> tuple[UnitLog, ...]:
    """Search ranges, round every weight to its nearest code; nothing is learned, so there is no unit log."""
    search_ranges(calibration, parameters.init_images)
    round_weights(calibration)
    return ()
