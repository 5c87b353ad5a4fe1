"""QDrop: the paper's defaults, rates that follow the number of steps, a better network than nearest rounding."""

from __future__ import annotations

import pytest

from isobit.calib.methods.qdrop import QDropParameters, qdrop
from tests.examples.units import calibration, recipe


def test_defaults_are_the_papers() -> None:
    settings = QDropParameters().settings
    rounding = settings.rounding.parameters
    assert (settings.steps, settings.keep_prob, rounding.rounding_weight) == (20_000, 0.5, 0.01)
    assert (rounding.learning_rate, settings.scale_learning_rate, rounding.warmup) == (1e-3, 4e-5, 0.2)
    assert (rounding.beta_start, rounding.beta_end, settings.gradient_factor) == (20.0, 2.0, True)


@pytest.mark.parametrize("steps", [100, 1000, 20_000, 40_000])
def test_reach_does_not_depend_on_the_steps(steps: int) -> None:
    settings = QDropParameters(steps=steps).settings
    assert settings.rounding.parameters.learning_rate * 0.8 * steps == pytest.approx(16.0)
    assert settings.scale_learning_rate * steps / 2 == pytest.approx(0.4)
    fixed = QDropParameters(steps=steps, schedule="paper").settings
    assert (fixed.rounding.parameters.learning_rate, fixed.scale_learning_rate) == (1e-3, 4e-5)


def test_every_unit_improves_on_nearest() -> None:
    made = calibration(recipe("qdrop_w2a2", steps=100), ranges=False)
    logs = qdrop(made, QDropParameters(steps=100, init_images=32))
    assert sum(log.loss_hard for log in logs) < 0.8 * sum(log.loss_nearest for log in logs)
    assert all(log.steps == 100 and log.undecided < 0.2 for log in logs)
