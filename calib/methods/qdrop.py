"""QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization.

Wei, Gong, Li, Liu, Yu; ICLR 2022, arXiv 2203.05740. Each unit is trained to give the float network's output although
a random half of its activations, element by element, at its input and at every quantizer inside, is quantized:
rounding and activation scales are learned in one run.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.ranges.ranges import search_ranges, search_unit_ranges
from isobit.calib.reconstruction.partition import join_units
from isobit.calib.reconstruction.reconstruct import Sweep, UnitTask, reconstruct
from isobit.calib.reconstruction.schedule import LearnedBlocks, rate_factor
from isobit.calib.reconstruction.trainer import Sampler, Settings, UnitTrainer, unit_trainer
from isobit.pipeline.stages import UnitLog

PAPER_STEPS = 20_000


class QDropParameters(LearnedBlocks):
    """Defaults are the paper's and its released code's, for every network and bit width.

    Args:
        keep_prob: probability that an element stays quantized; the paper's p is the probability of the opposite, and
            both are one half.
        anneal: share of the steps over which that probability rises to 1 (EPTQ, arXiv 2309.11531); 0 for none.
        scale_learning_rate: Adam's, of the activation scales, cosine to 0.
        branch: of the released code. `qdrop`, its default: activation ranges of the whole network at once, from the
            float network, and the scales' gradients damped by 1 / sqrt(elements * highest code). `master`, its first
            release: ranges unit by unit on what the quantized prefix really delivers, no damping.
        init_images: how many images the activation ranges see.
        sampler: how a batch is drawn; `replacement` is the released code's.
    """

    steps: int = Field(default=PAPER_STEPS, ge=1)
    keep_prob: float = Field(default=0.5, ge=0.0, le=1.0)
    anneal: float = Field(default=0.0, ge=0.0, le=1.0)
    scale_learning_rate: float = Field(default=4e-5, ge=0.0)
    branch: Literal["qdrop", "master"] = "qdrop"
    init_images: int = Field(default=256, ge=1)
    sampler: Sampler = "replacement"

    @model_validator(mode="after")
    def _anneals_something(self) -> Self:
        if self.anneal and self.keep_prob == 1.0:
            raise ValueError("'anneal' raises 'keep_prob' to 1, where it is from the start: lower 'keep_prob'")
        return self

    @property
    def settings(self) -> Settings:
        """The step loop's settings, rates scaled to the number of steps."""
        factor = rate_factor(self.schedule, self.steps, PAPER_STEPS)
        return Settings(
            steps=self.steps, rounding=self.chosen_rounding(PAPER_STEPS), keep_prob=self.keep_prob,
            anneal=self.anneal, sampler=self.sampler, scale_learning_rate=self.scale_learning_rate * factor,
            gradient_factor=self.branch == "qdrop",
        )


def _cost(parameters: QDropParameters, facts: CostFacts) -> Cost:
    return facts.reconstructed(parameters.init_images, parameters.steps, parameters.passes)


@method("qdrop", QDropParameters, needs={"images", "batch"}, cost=_cost, shared=True)
def qdrop(calibration: Calibration, parameters: QDropParameters) -> tuple[UnitLog, ...]:
    """Ranges of everything from the float network; then every unit in order, with ranges of its own where asked."""
    search_ranges(calibration, parameters.init_images)
    settings = parameters.settings

    def trainer(task: UnitTask) -> UnitTrainer | None:
        return unit_trainer(task, settings)

    def ranges(task: UnitTask) -> None:
        search_unit_ranges(task, parameters.init_images)

    units = join_units(calibration.graph, calibration.units, parameters.joined)
    prepare = ranges if parameters.branch == "master" else None
    return reconstruct(calibration, Sweep(settings.steps, units), trainer, prepare)
