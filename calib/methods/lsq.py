"""Learned step sizes alone: weights rounded to nearest, activation scales trained unit by unit.

Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, ICLR 2020, arXiv 1902.08153, gives the
gradient of a scale and its damping; the paper trains a whole network with labels. Here the scales of each unit are
trained to give the float network's output on the quantized prefix, with everything quantized: what is left of QDrop
without learned rounding and without dropping, and so the baseline that shows what learned rounding is worth.
"""

from __future__ import annotations

from pydantic import Field

from calib.context import Calibration
from calib.methods import method
from calib.parameters import Parameters
from calib.ranges import search_ranges
from calib.reconstruct import UnitWork, Walk, reconstruct
from calib.schedule import Schedule, rate_factor
from calib.trainer import Sampler, Settings, UnitTrainer
from calib.work import STEERED, Work, WorkFacts
from pipeline.stages import UnitLog

PAPER_STEPS = 20_000


class LSQParameters(Parameters):
    """Numbers of steps and rate are QDrop's, which learns the same scales.

    Args:
        steps: of one unit.
        scale_learning_rate: Adam's, cosine to 0.
        gradient_factor: the paper's damping, 1 / sqrt(elements * highest code); elements of the whole mini-batch.
        schedule: see `calib.schedule`.
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
            steps=self.steps, scale_learning_rate=self.scale_learning_rate * factor, rounding=False,
            gradient_factor=self.gradient_factor, sampler=self.sampler,
        )


def _work(parameters: LSQParameters, facts: WorkFacts) -> Work:
    return facts.searched(parameters.init_images) + facts.walked() + facts.steps(parameters.steps, STEERED)


@method("lsq", LSQParameters, needs={"images"}, work=_work)
def lsq(calibration: Calibration, parameters: LSQParameters) -> tuple[UnitLog, ...]:
    """Ranges from the float network, then the scales of every unit in order."""
    search_ranges(calibration, parameters.init_images)
    settings = parameters.settings

    def trainer(work: UnitWork) -> UnitTrainer | None:
        return UnitTrainer(work, settings) if work.activations else None

    return reconstruct(calibration, Walk(settings.steps), trainer)
