"""Rounding to nearest after a range search: the baseline of every table, and enough at 8 bits.

Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (2018), arXiv 1806.08342; Nagel et al.,
A White Paper on Neural Network Quantization (2021), arXiv 2106.08295, section 3.1.
"""

from __future__ import annotations

from pydantic import Field

from calib.context import Calibration
from calib.methods import method
from calib.parameters import Parameters
from calib.ranges import round_weights, search_ranges
from calib.work import Work, WorkFacts
from pipeline.stages import UnitLog


class NearestParameters(Parameters):
    """Args:
    init_images: how many images the ranges see; None for all calibration images.
    """

    init_images: int | None = Field(default=None, ge=1)


def _work(parameters: NearestParameters, facts: WorkFacts) -> Work:
    return facts.searched(parameters.init_images)


@method("nearest", NearestParameters, needs={"images"}, work=_work)
def nearest(calibration: Calibration, parameters: NearestParameters) -> tuple[UnitLog, ...]:
    """Search ranges, round every weight to its nearest code; nothing is learned, so there is no unit log."""
    search_ranges(calibration, parameters.init_images)
    round_weights(calibration)
    return ()
