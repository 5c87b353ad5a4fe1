"""GDFQ on a tiny network: no image is read, and the student comes closer to the float network than rounding does."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.calibrate import calibrate
from isobit.calib.methods import find_method
from isobit.calib.methods.gdfq import Gdfq, GdfqParameters, divergence_weight
from isobit.pipeline.recipe.schema import MethodChoice
from isobit.pipeline.stages import Calibrated
from tests.examples.units import recipe, responsive, subject

FEW = {"epochs": 6, "steps": 20, "range_epochs": 2, "warmup_epochs": 2, "generator_learning_rate": 5e-3}


def test_defaults_are_the_authors() -> None:
    _, parameters = find_method(MethodChoice(name="gdfq"))
    assert isinstance(parameters, GdfqParameters)
    assert (parameters.epochs, parameters.steps, parameters.warmup_epochs, parameters.range_epochs) == (400, 200, 4, 4)
    assert (parameters.learning_rate, parameters.generator_learning_rate, parameters.weight_decay) == (1e-4, 1e-3, 1e-4)
    assert (parameters.temperature, parameters.distillation, parameters.statistics_weight) == (20.0, 1.0, 0.1)


@pytest.mark.parametrize(("classes", "weight"), [(10, 40.0), (100, 4.0), (1000, 0.4)])
def test_the_weight_of_the_divergence(classes: int, weight: float) -> None:
    """Test 14."""
    assert divergence_weight(1.0, 20.0, classes) == pytest.approx(weight)


def test_rates_fall_at_the_papers_milestones() -> None:
    paper = Gdfq(GdfqParameters())
    assert [paper.student_rate(epoch, 0) for epoch in (99, 100, 200)] == pytest.approx([1e-4, 1e-5, 1e-6])


def trained(**changes: object) -> Calibrated:
    base = recipe("qdrop_w2a4", "policy=none", "weights.range=minmax", batch=32)
    choice = MethodChoice(name="gdfq", parameters={**FEW, "learning_rate": 1e-4, **changes})
    quantized, images = responsive(base.model_copy(update={"method": choice}))
    return calibrate(quantized, images[:0])


def error(result: Calibrated) -> float:
    images = subject("residual")[1]
    with torch.no_grad():
        return float((result.graph(images) - result.quantized.teacher(images)).square().mean())


@pytest.mark.slow
def test_training_beats_rounding_without_a_single_image() -> None:
    """The same ranges, with a student that never moves (its warm-up lasts to the end)."""
    untrained, learned = trained(warmup_epochs=6), trained()
    assert error(learned) < 0.9 * error(untrained)
    assert [log.number for log in learned.findings.epochs] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_every_parameter_makes_a_difference() -> None:
    few = {"epochs": 2, "steps": 1, "range_epochs": 1, "warmup_epochs": 1, "learning_rate": 0.05}
    base = trained(**few)
    for change in (
        {"distillation": 0.0}, {"statistics_weight": 0.0}, {"conditioning": "norm"}, {"norm": "train"},
        {"tracking": "ema_raw"}, {"temperature": 2.0}, {"weight_decay": 1.0}, {"learning_rate": 0.5},
        {"generator_learning_rate": 1e-4}, {"warmup_epochs": 0}, {"range_epochs": 2},
        {"input": "free"}, {"milestones": [1.0]}, {"averages": "own"},
        {"widen": 1.5},
    ):
        other = trained(**{**few, **change})
        images = subject("residual")[1]
        with torch.no_grad():
            assert not torch.equal(base.graph(images), other.graph(images)), change


def test_the_seed_decides() -> None:
    one, same = trained(epochs=2, steps=2, range_epochs=1, warmup_epochs=1), trained(
        epochs=2, steps=2, range_epochs=1, warmup_epochs=1
    )
    images = subject("residual")[1]
    with torch.no_grad():
        assert torch.equal(one.graph(images), same.graph(images))
