"""QDrop: the paper's defaults, rates that follow the number of steps, a better network than nearest rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isobit.calib.methods.qdrop import QDropParameters, qdrop
from isobit.calib.ranges.ranges import search_ranges
from isobit.calib.reconstruction.trainer import UnitTrainer
from tests.examples.units import calibration, recipe, task_at


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


def test_annealing_ends_with_everything_quantized() -> None:
    made, probabilities = calibration(recipe("qdrop_w2a2", steps=10), ranges=False), []
    search_ranges(made)
    task, _ = task_at(made, 1)
    trainer = UnitTrainer(task, QDropParameters(steps=10, anneal=0.6).settings)
    move = trainer.keep.move

    def note(cursor: Tensor) -> None:
        move(cursor)
        probabilities.append(float(trainer.keep.now))

    trainer.keep.move = note
    trainer.train(lambda count: None)
    assert probabilities == pytest.approx([min(1.0, 0.5 + step / 12) for step in range(10)])
    index = torch.arange(task.count)
    assert all(torch.equal(one, value.rows(index)) for one, value in
               zip(trainer.objective.inputs(index), task.inputs, strict=True))


@pytest.mark.parametrize("edits", [{"weight_scale_rate": 1e-5}, {"anneal": 1.0}, {"joined": 1}])
def test_each_addition_changes_the_result_and_beats_nearest(edits: dict[str, float]) -> None:
    found = []
    for changes in ({}, edits):
        made = calibration(recipe("qdrop_w2a2", steps=40), ranges=False)
        logs = qdrop(made, QDropParameters(steps=40, init_images=32, **changes))
        assert sum(log.loss_hard for log in logs) < sum(log.loss_nearest for log in logs)
        found.append((len(logs), [log.loss_hard for log in logs]))
    assert found[0] != found[1] and found[0][0] - found[1][0] == edits.get("joined", 0)
