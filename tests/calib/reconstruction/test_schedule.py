"""How rates follow the number of steps, and the papers' defaults that all methods share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from isobit.calib.cost import STEERED, TRAINED
from isobit.calib.reconstruction.schedule import LearnedRounding, rate_factor


@pytest.mark.parametrize("steps", [1, 100, 20_000, 80_000])
def test_fast_keeps_rate_times_steps_and_paper_keeps_the_rate(steps: int) -> None:
    assert rate_factor("fast", steps, 20_000) * steps == pytest.approx(20_000)
    assert rate_factor("paper", steps, 20_000) == 1.0


def test_at_the_papers_steps_both_are_the_paper() -> None:
    assert rate_factor("fast", 20_000, 20_000) == rate_factor("paper", 20_000, 20_000) == 1.0


def test_defaults_are_the_papers() -> None:
    made = LearnedRounding(steps=1)
    assert (made.rounding_weight, made.learning_rate, made.warmup) == (0.01, 1e-3, 0.2)
    assert (made.beta_start, made.beta_end, made.schedule, made.rounding) == (20.0, 2.0, "fast", "soft")


def test_a_rounding_that_learns_nothing_costs_less_a_step() -> None:
    costs = [LearnedRounding(steps=1, rounding=name).passes for name in ("soft", "signsgd", "nearest")]
    assert costs == [TRAINED, TRAINED, STEERED]


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"rounding_weight": -1.0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"beta_end": 1.0},
     {"schedule": "slow"}, {"pace": 1}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LearnedRounding(**{"steps": 10, **wrong})
