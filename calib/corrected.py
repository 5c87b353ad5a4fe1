"""What any method may add around itself: channels equalized before it, biases corrected after it."""

from __future__ import annotations

from isobit.calib.context import Calibration
from isobit.calib.corrections.affine import correct_affine
from isobit.calib.corrections.biases import correct_biases
from isobit.calib.corrections.equalize import equalize
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.parameters import Parameters
from isobit.calib.reconstruction.predictions import PredictionNames


class Corrected(Parameters):
    """Parameters of a method around which `calibrate` runs what is asked for here; nothing by default.

    Args:
        equalize: channels get one range before depthwise convolutions (`calib.corrections.equalize`).
        equalize_clips: also where a ReLU6 lies between.
        correct_affine: each channel of a layer's result is brought to the float network's by a factor and an offset, in
            its weight's scale and its bias (`calib.corrections.affine`); takes the place of `correct_biases`.
        correct_biases: what rounding moves a channel's mean by is taken off its bias (`calib.corrections.biases`).
        prediction: what the outputs are, for all that compare predictions, where the graph does not show it; see
            `PredictionNames`.
    """

    equalize: bool = False
    equalize_clips: bool = False
    correct_affine: bool = False
    correct_biases: bool = False
    prediction: PredictionNames | None = None

    def before(self, calibration: Calibration) -> None:
        """Change weights and biases of the float network, before any range is searched."""
        if self.equalize or self.equalize_clips:
            equalize(calibration, clips=self.equalize_clips)

    def after(self, calibration: Calibration) -> None:
        """Change biases and scales, after all codes of weights are decided."""
        if self.correct_affine:
            correct_affine(calibration)
        elif self.correct_biases:
            correct_biases(calibration)

    def around(self, facts: CostFacts) -> Cost:
        """What both cost."""
        passes = (self.equalize or self.equalize_clips) + 2 * (self.correct_affine or self.correct_biases)
        return facts.network * (passes * facts.images)
