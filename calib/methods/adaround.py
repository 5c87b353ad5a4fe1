"""AdaRound: Up or Down? Adaptive Rounding for Post-Training Quantization.

Nagel, Amjad, van Baalen, Louizos, Blankevoort; ICML 2020, arXiv 2004.10568. Layer by layer, learned rounding makes the
layer's output, after its activation function, equal to the float network's, although its input comes from the
network whose earlier layers are already rounded. Activations stay in float meanwhile; their ranges are set afterwards,
on the rounded network, and nothing about them is learned.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from calib.context import Calibration
from calib.methods import method
from calib.partition import layers
from calib.ranges import search_activation_ranges, search_weight_ranges
from calib.reconstruct import UnitWork, Walk, reconstruct
from calib.rounding import Descent
from calib.schedule import RoundingParameters
from calib.trainer import Sampler, Settings, UnitTrainer
from calib.work import TRAINED, Work, WorkFacts
from pipeline.stages import UnitLog

PAPER_STEPS = 10_000


class AdaRoundParameters(RoundingParameters):
    """Defaults are the paper's, and where it is silent those of AIMET, the library of its authors.

    Args:
        steps: the paper's 10,000 (AIMET takes 15,000 below 8 bits).
        descent: of the regulariser's exponent; AIMET's cosine.
        sampler: the first images of a fresh permutation in every step, as in AIMET.
        init_images: how many images the activation ranges see afterwards; None for all.
    """

    steps: int = Field(default=PAPER_STEPS, ge=1)
    descent: Descent = "cosine"
    sampler: Sampler = "permutation"
    init_images: int | None = Field(default=256, ge=1)

    @property
    def settings(self) -> Settings:
        """The step loop's settings, the rate scaled to the number of steps."""
        return replace(self.rounding_settings(PAPER_STEPS), descent=self.descent, sampler=self.sampler)


def _work(parameters: AdaRoundParameters, facts: WorkFacts) -> Work:
    return facts.searched(parameters.init_images) + facts.walked() + facts.steps(parameters.steps, TRAINED)


@method("adaround", AdaRoundParameters, needs={"images"}, work=_work)
def adaround(calibration: Calibration, parameters: AdaRoundParameters) -> tuple[UnitLog, ...]:
    """Round every layer on the rounded prefix, then choose the activations' ranges."""
    search_weight_ranges(calibration)
    settings = parameters.settings

    def trainer(work: UnitWork) -> UnitTrainer:
        return UnitTrainer(work, settings)

    logs = reconstruct(calibration, Walk(settings.steps, layers(calibration.graph)), trainer)
    search_activation_ranges(calibration, parameters.init_images)
    return logs
