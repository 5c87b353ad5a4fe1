"""QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization.

Wei, Gong, Li, Liu, Yu; ICLR 2022, arXiv 2203.05740. Each unit is trained to give the float network's output although
a random half of its activations, element by element, at its input and at every quantizer inside, is quantized:
rounding and activation scales are learned in one run.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from calib.context import Calibration
from calib.methods import Parameters, method
from calib.ranges import search_ranges, search_unit_ranges
from calib.reconstruct import UnitWork, reconstruct
from calib.trainer import MixedTrainer, Settings
from pipeline.stages import UnitLog

PAPER_STEPS = 20_000


class QDropParameters(Parameters):
    """Defaults are the paper's and its released code's (branch qdrop), for every network and bit width.

    Args:
        unit: what one run optimises; the released code works on blocks.
        steps: of one unit.
        keep_prob: probability that an element stays quantized; the paper's p is the probability of the opposite, and
            both are one half.
        rounding_weight: lambda, 0.01 for ResNet and RegNet (0.1 MobileNetV2, 0.2 MnasNet); the regulariser is a sum.
        learning_rate: Adam's, of the rounding variables, constant.
        scale_learning_rate: Adam's, of the activation scales, cosine to 0.
        warmup: share of steps without regulariser.
        beta_start, beta_end: exponent of the regulariser, linear in the steps after warm-up.
        init: where activation ranges come from: `teacher`, the float network, all at once (branch qdrop, the default
            of the released code), or `prefix`, the quantized network in front of each unit (branch master).
        init_images: how many images the activation ranges see.
        gradient_factor: LSQ's damping of the scales' gradients by 1 / sqrt(elements * highest code).
        scale_rate: with other than 20,000 steps multiply both learning rates by 20,000 / steps, so that a rounding
            variable can travel as far as in the paper (rate * 0.8 * steps = 16, of which up to 4.8 are needed) and a
            scale as well (rate * steps / 2 = 0.4). Without it, few steps leave most rounding undecided.
    """

    unit: Literal["block"] = "block"
    steps: int = Field(default=PAPER_STEPS, ge=1)
    keep_prob: float = Field(default=0.5, ge=0.0, le=1.0)
    rounding_weight: float = Field(default=0.01, ge=0.0)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    scale_learning_rate: float = Field(default=4e-5, ge=0.0)
    warmup: float = Field(default=0.2, ge=0.0, lt=1.0)
    beta_start: float = Field(default=20.0, gt=1.0)
    beta_end: float = Field(default=2.0, gt=1.0)
    init: Literal["teacher", "prefix"] = "teacher"
    init_images: int = Field(default=256, ge=1)
    gradient_factor: bool = True
    scale_rate: bool = True

    @property
    def settings(self) -> Settings:
        """The step loop's settings, rates scaled to the number of steps."""
        factor = PAPER_STEPS / self.steps if self.scale_rate else 1.0
        return Settings(
            self.steps, self.keep_prob, self.rounding_weight, self.learning_rate * factor,
            self.scale_learning_rate * factor, self.warmup, self.beta_start, self.beta_end, self.gradient_factor,
        )


@method("qdrop", QDropParameters, needs={"images"})
def qdrop(calibration: Calibration, parameters: QDropParameters) -> tuple[UnitLog, ...]:
    """Ranges of everything from the float network; then every unit in order, with ranges of its own where asked."""
    search_ranges(calibration, parameters.init_images)
    settings = parameters.settings

    def trainer(work: UnitWork) -> MixedTrainer:
        return MixedTrainer(work, settings)

    def ranges(work: UnitWork) -> None:
        search_unit_ranges(work, parameters.init_images)

    return reconstruct(calibration, settings.steps, trainer, ranges if parameters.init == "prefix" else None)
