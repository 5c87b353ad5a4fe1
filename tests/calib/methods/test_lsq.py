"""Learned step sizes alone: weights at their nearest codes, activation scales trained."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.methods.lsq import LSQParameters, lsq
from tests.examples.units import calibrated, calibration, output_error, recipe, weight_of

MINMAX = "activations.range=minmax"  # leaves something to improve


def test_defaults_are_qdrops_numbers_without_rounding_and_drop() -> None:
    settings = LSQParameters().settings
    assert (settings.steps, settings.scale_learning_rate, settings.gradient_factor) == (20_000, 4e-5, True)
    assert (settings.keep_prob, settings.rounding.kind.name, settings.sampler) == (1.0, "nearest", "replacement")


@pytest.mark.parametrize("steps", [100, 20_000])
def test_reach_does_not_depend_on_the_steps(steps: int) -> None:
    assert LSQParameters(steps=steps).settings.scale_learning_rate * steps == pytest.approx(0.8)
    assert LSQParameters(steps=steps, schedule="paper").settings.scale_learning_rate == 4e-5


def test_only_scales_of_activations_change() -> None:
    made, before = calibration(recipe("lsq_w4a2", MINMAX), ranges=False), calibration(recipe("lsq_w4a2", MINMAX))
    logs = lsq(made, LSQParameters(steps=150, init_images=48))
    trained = [log.name for log in logs if log.steps and not log.kept_nearest]
    assert trained and {log.flipped for log in logs} == {0.0} == {log.undecided for log in logs}
    for name, quantizer in before.weights().items():
        assert torch.equal(made.weights()[name].scale, quantizer.scale)
        assert torch.equal(made.weights()[name].codes, quantizer.quantize(weight_of(before.graph, name)).int())
    after = made.activations()
    moved = {name for name, q in before.activations().items() if not torch.equal(after[name].scale, q.scale)}
    assert "relu_q" in moved and "x_q" not in moved
    for name, quantizer in before.activations().items():
        assert torch.equal(after[name].zero_point, quantizer.zero_point)


def test_better_than_nearest() -> None:
    of = recipe("lsq_w4a2", MINMAX, "method.init_images=48", steps=150)
    result = calibrated(of)
    assert sum(log.loss_hard for log in result.log) < 0.95 * sum(log.loss_nearest for log in result.log)
    assert output_error(result) < output_error(calibrated(recipe("nearest_w4a2", f"policy={of.policy}", MINMAX)))


def test_the_gradient_factor_makes_a_difference() -> None:
    scales = []
    for factor in (True, False):
        made = calibration(recipe("lsq_w4a2", MINMAX), ranges=False)
        lsq(made, LSQParameters(steps=150, gradient_factor=factor))
        scales.append(torch.stack([quantizer.scale for quantizer in made.activations().values()]))
    assert not torch.equal(*scales)
