"""Parameters that every method with learned rounding has, and how its rates follow a smaller number of steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from isobit.calib.cost import STEERED, TRAINED
from isobit.calib.parameters import Parameters
from isobit.calib.reconstruction.trainer import Settings
from isobit.calib.roundings import find_rounding

Schedule = Literal["paper", "fast"]


def rate_factor(schedule: Schedule, steps: int, paper_steps: int) -> float:
    """What learning rates are multiplied with when `steps` are taken instead of the paper's.

    `fast` keeps rate * steps: a rounding variable can travel as far as in the paper (rate * 0.8 * steps = 16 of which
    up to 4.8 are needed), and so can a scale. With the paper's rates, few steps leave most rounding undecided.
    """
    return paper_steps / steps if schedule == "fast" else 1.0


class RoundingParameters(Parameters):
    """What is asked of the rounding, wherever it is learned.

    Args:
        steps: of one unit.
        rounding: one of `calib.roundings`. `soft` is AdaRound's relaxation, which all papers here take; the parameters
            from `rounding_weight` to `beta_end` are its own and mean nothing to others.
        rounding_weight: lambda of the regulariser, which is a sum over all weights of a unit; 0.01 in all papers, for
            MobileNetV2 0.1 and for MnasNet 0.2 in QDrop's and PD-Quant's code.
        learning_rate: Adam's, of the rounding variables, constant.
        warmup: share of steps without regulariser.
        beta_start, beta_end: exponent of the regulariser after warm-up.
        schedule: with other than the paper's number of steps, `fast` multiplies learning rates by paper's / own steps,
            `paper` leaves them; the same thing at the paper's number.
    """

    steps: int = Field(ge=1)
    rounding: str = "soft"
    rounding_weight: float = Field(default=0.01, ge=0.0)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    warmup: float = Field(default=0.2, ge=0.0, lt=1.0)
    beta_start: float = Field(default=20.0, gt=1.0)
    beta_end: float = Field(default=2.0, gt=1.0)
    schedule: Schedule = "fast"

    @field_validator("rounding")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return find_rounding(name).name

    @property
    def passes(self) -> float:
        """What one step costs, in forward passes of its batch."""
        return TRAINED if find_rounding(self.rounding).learns else STEERED

    def rounding_settings(self, paper_steps: int) -> Settings:
        """The step loop's settings as far as they are about rounding, the rate scaled to the number of steps."""
        return Settings(
            steps=self.steps, rounding=self.rounding, rounding_weight=self.rounding_weight,
            learning_rate=self.learning_rate * rate_factor(self.schedule, self.steps, paper_steps),
            warmup=self.warmup, beta_start=self.beta_start, beta_end=self.beta_end,
        )
