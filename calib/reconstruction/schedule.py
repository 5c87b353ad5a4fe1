"""Parameters that every method with learned rounding has, and how its rates follow a smaller number of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from isobit.calib.corrected import Corrected
from isobit.calib.cost import STEERED, TRAINED
from isobit.calib.roundings import ChosenRounding, choose_rounding, find_rounding
from isobit.calib.roundings.soft import SoftParameters

Schedule = Literal["paper", "fast"]


def rate_factor(schedule: Schedule, steps: int, paper_steps: int) -> float:
    """What learning rates are multiplied with when `steps` are taken instead of the paper's.

    `fast` keeps rate * steps: a rounding variable can travel as far as in the paper (rate * 0.8 * steps = 16 of which
    up to 4.8 are needed), and so can a scale. With the paper's rates, few steps leave most rounding undecided.
    """
    return paper_steps / steps if schedule == "fast" else 1.0


class LearnedRounding(Corrected, SoftParameters):
    """What is asked of the rounding, wherever it is learned.

    The parameters of soft rounding, which all papers here take, stand among the method's own. Every other rounding has
    its own, beside its name: `rounding: {name: signsgd, learning_rate: 2.0}`.

    Args:
        steps: of one unit.
        rounding: one of `calib.roundings`, by its name, or `name` and parameters.
        schedule: with other than the paper's number of steps, `fast` multiplies learning rates by paper's / own steps,
            `paper` leaves them; the same thing at the paper's number.
    """

    steps: int = Field(ge=1)
    rounding: str | dict[str, Any] = "soft"
    schedule: Schedule = "fast"

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        chosen = self.chosen_rounding(1)
        if self.weight_scale_rate and not isinstance(chosen.parameters, SoftParameters):
            raise ValueError(
                f"'weight_scale_rate' is a part of soft rounding, and 'rounding' is '{chosen.kind.name}': leave one out"
            )
        return self

    @property
    def passes(self) -> float:
        """What one step costs, in forward passes of its batch."""
        return TRAINED if self.chosen_rounding(1).kind.learns else STEERED

    def chosen_rounding(self, paper_steps: int) -> ChosenRounding:
        """The rounding with its parameters, rates scaled to the number of steps."""
        stated = {"name": self.rounding} if isinstance(self.rounding, str) else dict(self.rounding)
        name = str(stated.pop("name", type(self).model_fields["rounding"].default))
        taken = find_rounding(name).parameters
        shared = {key: getattr(self, key) for key in taken.model_fields} if isinstance(self, taken) else {}
        chosen = choose_rounding(name, shared | stated)
        factor = rate_factor(self.schedule, self.steps, paper_steps)
        return replace(chosen, parameters=chosen.parameters.scaled(factor))


class LearnedBlocks(LearnedRounding):
    """The same of methods that learn block by block.

    Args:
        joined: so many borders between neighbouring units are taken away, where capacities differ most (MRECG; see
            `calib.reconstruction.partition`).
    """

    joined: int = Field(default=0, ge=0)
