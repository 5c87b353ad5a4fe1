"""What any method may add around itself: channels equalized before it; after it biases corrected, the whole trained."""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.corrections.biases import correct_biases
from isobit.calib.corrections.equalize import equalize
from isobit.calib.cost import TRAINED, Cost, CostFacts
from isobit.calib.parameters import Parameters
from isobit.calib.reconstruction.predictions import PredictionNames, float_predictions
from isobit.calib.training.finish import TEMPERATURE, Finish, finish


class Corrected(Parameters):
    """Parameters of a method around which `calibrate` runs what is asked for here; nothing by default.

    Args:
        equalize: channels get one range before depthwise convolutions (`calib.corrections.equalize`).
        equalize_clips: also where a ReLU6 lies between.
        correct_biases: what rounding moves a channel's mean by is taken off its bias (`calib.corrections.biases`).
        finish_steps: of the network-wise finish (`calib.training.finish`), in batches of the recipe's size; 0 for none.
        finish_rate: its learning rate.
        finish_rounding: its rate for the rounding of weights, in codes; 0 leaves the codes that the method decided.
        prediction: what the outputs are, for all that compare predictions, where the graph does not show it; see
            `PredictionNames`.
    """

    equalize: bool = False
    equalize_clips: bool = False
    correct_biases: bool = False
    finish_steps: int = Field(default=0, ge=0)
    finish_rate: float = Field(default=2e-3, gt=0.0)
    finish_rounding: float = Field(default=0.0, ge=0.0)
    prediction: PredictionNames | None = None

    def before(self, calibration: Calibration) -> None:
        """Change weights and biases of the float network, before any range is searched."""
        if self.equalize or self.equalize_clips:
            equalize(calibration, clips=self.equalize_clips)

    def after(self, calibration: Calibration) -> None:
        """Change biases and scales, after all codes of weights are decided."""
        predictions = float_predictions(calibration, self.prediction, TEMPERATURE) if self.finish_steps else None
        if self.correct_biases:
            correct_biases(calibration)
        if predictions is not None:
            batch = calibration.recipe.images.batch_size
            finish(calibration, Finish(self.finish_steps, self.finish_rate, self.finish_rounding, batch), predictions)

    def around(self, facts: CostFacts) -> Cost:
        """What both cost."""
        passes = (self.equalize or self.equalize_clips) + 2 * self.correct_biases
        return facts.network * (passes * facts.images + self.finish_steps * facts.batch * TRAINED)
