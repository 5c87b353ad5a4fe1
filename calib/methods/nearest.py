"""Rounding to nearest after a range search: the baseline of every table, and enough at 8 bits.

Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (2018), arXiv 1806.08342; Nagel et al.,
A White Paper on Neural Network Quantization (2021), arXiv 2106.08295, section 3.1.
"""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.corrections.biases import correct_biases
from isobit.calib.corrections.equalize import equalize
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.parameters import Parameters
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.pipeline.stages import UnitLog


class NearestParameters(Parameters):
    """Args:
    init_images: how many images the ranges see; None for all calibration images.
    equalize: channels get one range before depthwise convolutions (`calib.corrections.equalize`).
    correct_biases: what rounding moves a channel's mean by is taken off its bias (`calib.corrections.biases`).
    """

    init_images: int | None = Field(default=None, ge=1)
    equalize: bool = False
    correct_biases: bool = False


def _cost(parameters: NearestParameters, facts: CostFacts) -> Cost:
    passes = parameters.equalize + 2 * parameters.correct_biases
    return facts.searched(parameters.init_images) + facts.network * float(passes * facts.images)


@method("nearest", NearestParameters, needs={"images"}, cost=_cost)
def nearest(calibration: Calibration, parameters: NearestParameters) -> tuple[UnitLog, ...]:
    """Search ranges, round every weight to its nearest code; nothing is learned, so there is no unit log."""
    if parameters.equalize:
        equalize(calibration)
    search_ranges(calibration, parameters.init_images)
    round_weights(calibration)
    if parameters.correct_biases:
        correct_biases(calibration)
    return ()
