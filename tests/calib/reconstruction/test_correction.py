"""PD-Quant's distribution correction: the statistics loss against batch norm itself, and what a run does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx

from isobit.calib.reconstruction.boundary import CachedValue
from isobit.calib.reconstruction.correction import Correction, correct
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.pipeline.graph.norms import FoldedNorm, folded_norm
from tests.examples.units import PAPER, calibration, everything, recipe, task_at

FLOOR = 1e-6  # of a variance, in the released code
PAPERS = Correction(steps=20, learning_rate=1e-3, tie=0.02, batch=16)


def block(unit: int = 1) -> UnitTask:
    """A basic block with two batch norms after a max-pool (1), or the classifier (3)."""
    return task_at(calibration(recipe("pdquant_w4a4"), name="residual", target=PAPER), unit)[0]


def difference(task: UnitTask, corrected: UnitTask) -> Tensor:
    rows = everything(task)
    return (corrected.teacher_inputs[0].rows(rows) - task.float_inputs[0].rows(rows)).abs()


def test_targets_are_the_float_units_answers_to_the_corrected_inputs() -> None:
    task = block()
    corrected = correct(task, PAPERS)
    rows = everything(task)
    assert float(difference(task, corrected).max()) > 1e-3
    with torch.no_grad():
        (expected,) = task.teacher(corrected.teacher_inputs[0].rows(rows))
    torch.testing.assert_close(corrected.targets[0].rows(rows), expected, rtol=1e-5, atol=1e-5)
    assert corrected.inputs is task.inputs and corrected.float_inputs is task.float_inputs


def test_more_tied_is_closer() -> None:
    task = block()
    loose, tight = (correct(task, Correction(20, 1e-3, tie, 16)) for tie in (1.0, 1e-3))
    assert float(difference(task, tight).mean()) < float(difference(task, loose).mean())


def test_in_bfloat16_it_goes_the_same_way() -> None:
    """Only the layers are coarse; corrected inputs and targets are float32 and the targets exact."""
    task = block()
    fine, coarse = (correct(task, replace(PAPERS, precision=precision)) for precision in ("float32", "bfloat16"))
    moves = [
        (one.teacher_inputs[0].rows(everything(task)) - task.float_inputs[0].rows(everything(task))).flatten()
        for one in (fine, coarse)
    ]
    assert not torch.equal(*moves) and moves[1].dtype is torch.float32
    assert float(torch.cosine_similarity(*moves, dim=0)) > 0.9


@pytest.mark.parametrize(("unit", "steps"), [(3, 20), (1, 0)])
def test_nothing_to_correct_returns_the_unit_itself(unit: int, steps: int) -> None:
    """Without a batch norm (the classifier), or without a step."""
    task = block(unit)
    assert correct(task, Correction(steps, 1e-3, 0.02, 16)) is task


def test_the_image_itself_is_corrected_for_the_first_unit() -> None:
    task = block(0)
    assert task.teacher_inputs == (None,)
    corrected = correct(task, PAPERS)
    assert float(difference(task, corrected).max()) > 1e-3
    assert corrected.inputs is task.inputs


NAMES = [("residual", 1), ("residual", 2), ("mobile", 2), ("residual", 0)]


class Recorder(fx.Interpreter):
    """Runs the float unit and keeps what its folded layers answer, beside the norms that they took in."""

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if (norm := folded_norm(n)) is not None:
            self.found.append((norm, result))
        return result


def norm_inputs(task: UnitTask, inputs: Sequence[Tensor]) -> list[tuple[FoldedNorm, Tensor]]:
    """(norm, its input [N, C, H, W]) of every batch norm in the unit."""
    recorder = Recorder(task.teacher)
    recorder.found = []
    with torch.no_grad():
        recorder.run(*inputs)
    return [
        (norm, (value - over(norm.beta)) / over(norm.factor) + over(norm.mean)) for norm, value in recorder.found
    ]


def over(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def loss_of(task: UnitTask, inputs: Sequence[Tensor], tie: float) -> float:
    """The whole loss that the correction descends, of all images, as section 5.3 writes it."""
    total = 0.0
    for norm, value in norm_inputs(task, inputs):
        deviation = torch.sqrt(value.var((2, 3)) + FLOOR)
        total += float((value.mean((2, 3)) - norm.mean).square().sum(1).mean())
        total += float((deviation - torch.sqrt(norm.variance + FLOOR)).square().sum(1).mean())
    for value, original in zip(inputs, rows_of(task.float_inputs, task), strict=True):
        total += float((value - original).square().sum(1).mean()) / tie
    return total


def rows_of(stored: Sequence[CachedValue], task: UnitTask) -> list[Tensor]:
    return [value.rows(everything(task)) for value in stored]


def unit_of(name: str, unit: int) -> UnitTask:
    return task_at(calibration(recipe("pdquant_w4a4"), name=name, target=PAPER), unit)[0]


@pytest.mark.parametrize(("name", "unit", "tie"), [(*NAMES[0], 1.0), *((*at, 0.02) for at in NAMES)])
def test_the_loss_does_not_increase(name: str, unit: int, tie: float) -> None:
    task = unit_of(name, unit)
    corrected = correct(task, Correction(60, 1e-3, tie, 24))
    before = loss_of(task, rows_of(task.float_inputs, task), tie)
    assert loss_of(task, rows_of(corrected.teacher_inputs, task), tie) < before


@pytest.mark.parametrize(("name", "unit"), NAMES)
def test_tied_to_the_limit_inputs_stay(name: str, unit: int) -> None:
    """lambda_c -> 0; Adam's first step is its rate whatever the gradient, so single elements end within the rate."""
    task = unit_of(name, unit)
    corrected = correct(task, Correction(60, 1e-3, 1e-9, 24))
    assert float(difference(task, corrected).max()) < 1e-3


def test_without_a_batch_norm_inputs_are_the_very_same() -> None:
    task = block(3)
    corrected = correct(task, PAPERS)
    assert corrected.teacher_inputs is task.teacher_inputs and corrected.targets is task.targets


@pytest.mark.parametrize(("name", "unit"), NAMES)
def test_running_statistics_and_parameters_stay(name: str, unit: int) -> None:
    """Batch norms are folded away: their statistics are constants beside the layers, and layers' weights stay too."""
    task = unit_of(name, unit)
    norms = [norm for norm, _ in norm_inputs(task, rows_of(task.float_inputs, task))]
    assert norms
    kept = [(norm.mean.clone(), norm.variance.clone()) for norm in norms]
    parameters = {key: value.clone() for key, value in task.teacher.named_parameters()}
    correct(task, PAPERS)
    for norm, (mean, variance) in zip(norms, kept, strict=True):
        assert torch.equal(norm.mean, mean) and torch.equal(norm.variance, variance)
    for key, value in task.teacher.named_parameters():
        assert torch.equal(value, parameters[key]) and value.grad is None


@pytest.mark.parametrize(("name", "unit"), NAMES)
def test_means_of_images_move_towards_the_running_means(name: str, unit: int) -> None:
    task = unit_of(name, unit)
    corrected = correct(task, Correction(80, 1e-2, 1.0, 24))
    gaps: list[float] = []
    for inputs in (task.float_inputs, corrected.teacher_inputs):
        found = norm_inputs(task, rows_of(inputs, task))
        gaps.append(sum(float((value.mean((2, 3)) - norm.mean).square().sum(1).mean()) for norm, value in found))
    assert gaps[1] < 0.95 * gaps[0]
