"""Learned step sizes alone: weights rounded to nearest, activation scales trained unit by unit.

Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, ICLR 2020, arXiv 1902.08153, gives the
gradient of a scale and its damping; the paper trains a whole network with labels. Here the scales of each unit are
trained to give the float network's output on the quantized prefix, with everything quantized: what is left of QDrop
without learned rounding and without dropping, and so the baseline that shows what learned rounding is worth.
"""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.corrected import Corrected
from isobit.calib.cost import STEERED, Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.ranges.ranges import search_ranges
from isobit.calib.reconstruction.reconstruct import Sweep, UnitTask, reconstruct
from isobit.calib.reconstruction.schedule import Schedule, rate_factor
from isobit.calib.reconstruction.trainer import Sampler, Settings, UnitTrainer, unit_trainer
from isobit.pipeline.stages import UnitLog

PAPER_STEPS = 20_000


class LSQParameters(Corrected):
    """Numbers of steps and rate are QDrop's, which learns the same scales.

    Args:
        steps: of one unit.
        scale_learning_rate: Adam's, cosine to 0.
        gradient_factor: the paper's damping, 1 / sqrt(elements * highest code); elements of the whole mini-batch.
        schedule: see `calib.reconstruction.schedule`.
        init_images: how many images the activation ranges see.
        sampler: how a batch is drawn.
    """

    steps: int = Field(default=PAPER_STEPS, ge=1)
    scale_learning_rate: float = Field(default=4e-5, gt=0.0)
    gradient_factor: bool = True
    schedule: Schedule = "fast"
    init_images: int = Field(default=256, ge=1)
    sampler: Sampler = "replacement"

    @property
    def settings(self) -> Settings:
        """The step loop's settings, the rate scaled to the number of steps."""
        factor = rate_factor(self.schedule, self.steps, PAPER_STEPS)
        return Settings(
            steps=self.steps, scale_learning_rate=self.scale_learning_rate * factor,
            gradient_factor=self.gradient_factor, sampler=self.sampler,
        )


def _cost(parameters: LSQParameters, facts: CostFacts) -> Cost:
    return facts.reconstructed(parameters.init_images, parameters.steps, STEERED)


@method("lsq", LSQParameters, needs={"images", "batch"}, cost=_cost, shared=True)
def lsq(calibration: Calibration, parameters: LSQParameters) -> tuple[UnitLog, ...]:
    """Ranges from the float network, then the scales of every unit in order."""
    search_ranges(calibration, parameters.init_images)
    settings = parameters.settings

    def trainer(task: UnitTask) -> UnitTrainer | None:
        return unit_trainer(task, settings)

    return reconstruct(calibration, Sweep(settings.steps), trainer)
