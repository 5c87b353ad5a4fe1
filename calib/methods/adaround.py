"""AdaRound: Up or Down? Adaptive Rounding for Post-Training Quantization.

Nagel, Amjad, van Baalen, Louizos, Blankevoort; ICML 2020, arXiv 2004.10568. Layer by layer, learned rounding makes the
layer's output, after its activation function, equal to the float network's, although its input comes from the
network whose earlier layers are already rounded. Activations stay in float meanwhile; their ranges are set afterwards,
on the rounded network, and nothing about them is learned.
"""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.ranges.ranges import search_activation_ranges, search_weight_ranges
from isobit.calib.reconstruction.partition import layers
from isobit.calib.reconstruction.reconstruct import Sweep, UnitTask, reconstruct
from isobit.calib.reconstruction.schedule import LearnedRounding
from isobit.calib.reconstruction.trainer import Sampler, Settings, UnitTrainer, unit_trainer
from isobit.calib.roundings.soft import Descent
from isobit.pipeline.stages import UnitLog

PAPER_STEPS = 10_000


class AdaRoundParameters(LearnedRounding):
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
        return Settings(steps=self.steps, rounding=self.chosen_rounding(PAPER_STEPS), sampler=self.sampler)


def _cost(parameters: AdaRoundParameters, facts: CostFacts) -> Cost:
    return facts.reconstructed(parameters.init_images, parameters.steps, parameters.passes)


@method("adaround", AdaRoundParameters, needs={"images", "batch"}, cost=_cost, shared=True)
def adaround(calibration: Calibration, parameters: AdaRoundParameters) -> tuple[UnitLog, ...]:
    """Round every layer on the rounded prefix, then choose the activations' ranges."""
    search_weight_ranges(calibration)
    settings = parameters.settings

    def trainer(task: UnitTask) -> UnitTrainer | None:
        return unit_trainer(task, settings)

    logs = reconstruct(calibration, Sweep(settings.steps, layers(calibration.graph)), trainer)
    search_activation_ranges(calibration, parameters.init_images)
    return logs
