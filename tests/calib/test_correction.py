"""PD-Quant's distribution correction: the statistics loss against batch norm itself, and what a run does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from calib.correction import VARIANCE_FLOOR, Correction, correct, statistics_loss
from calib.reconstruct import UnitWork
from pipeline.norms import FoldedNorm
from tests.calib.nets import PAPER, calibration, everything, recipe, work_at

PAPERS = Correction(steps=20, learning_rate=1e-3, tie=0.02, batch=16)


def block(unit: int = 1) -> UnitWork:
    """A basic block with two batch norms behind a max-pool (1), or the classifier (3)."""
    return work_at(calibration(recipe("pdquant_w4a4"), name="residual", target=PAPER), unit)[0]


def lively_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    for values in (norm.running_mean, norm.weight.data, norm.bias.data):
        values.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return norm


def folded(norm: nn.BatchNorm2d) -> FoldedNorm:
    factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    return FoldedNorm(factor, norm.bias.detach(), norm.running_mean, norm.running_var)


def test_statistics_loss_is_the_papers_sum_over_batch_norms() -> None:
    torch.manual_seed(0)
    norms = [lively_norm(4), lively_norm(6)]
    values = [torch.randn(5, 4, 6, 6) * 2 + 1, torch.randn(5, 6, 3, 3)]
    with torch.no_grad():
        found = statistics_loss(tuple(n(v) for n, v in zip(norms, values, strict=True)), [folded(n) for n in norms])
    expected = 0.0
    for norm, value in zip(norms, values, strict=True):
        mean = value.mean((2, 3))
        deviation = torch.sqrt(value.var((2, 3), unbiased=True) + VARIANCE_FLOOR)
        running = torch.sqrt(norm.running_var + VARIANCE_FLOOR)
        gaps = (mean - norm.running_mean, deviation - running)
        expected += sum(float(gap.square().sum(1).mean()) for gap in gaps)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_a_dead_channel_is_left_out() -> None:
    norm = FoldedNorm(torch.tensor([0.0, 1.0]), *torch.zeros(2, 2), torch.ones(2))
    answer = torch.randn(3, 2, 5, 5)
    other = answer.clone()
    other[:, 0] += 100.0
    assert float(statistics_loss((answer,), [norm])) == float(statistics_loss((other,), [norm]))


def test_without_positions_only_means_are_compared() -> None:
    norm = FoldedNorm(torch.ones(4), torch.zeros(4), torch.full((4,), 0.5), torch.ones(4))
    answer = torch.randn(6, 4)
    expected = float(answer.square().sum(1).mean())
    assert float(statistics_loss((answer,), [norm])) == pytest.approx(expected, rel=1e-5)


def difference(work: UnitWork, corrected: UnitWork) -> Tensor:
    rows = everything(work)
    return (corrected.teacher_inputs[0].rows(rows) - work.float_inputs[0].rows(rows)).abs()


def test_targets_are_the_float_units_answers_to_the_corrected_inputs() -> None:
    work = block()
    corrected = correct(work, PAPERS)
    rows = everything(work)
    assert float(difference(work, corrected).max()) > 1e-3
    with torch.no_grad():
        (expected,) = work.teacher(corrected.teacher_inputs[0].rows(rows))
    torch.testing.assert_close(corrected.targets[0].rows(rows), expected, rtol=1e-5, atol=1e-5)
    assert corrected.inputs is work.inputs and corrected.float_inputs is work.float_inputs


def test_more_tied_is_closer() -> None:
    work = block()
    loose, tight = (correct(work, Correction(20, 1e-3, tie, 16)) for tie in (1.0, 1e-3))
    assert float(difference(work, tight).mean()) < float(difference(work, loose).mean())


@pytest.mark.parametrize(("unit", "steps"), [(3, 20), (1, 0)])
def test_nothing_to_correct_returns_the_unit_itself(unit: int, steps: int) -> None:
    """Without a batch norm (the classifier), or without a step."""
    work = block(unit)
    assert correct(work, Correction(steps, 1e-3, 0.02, 16)) is work


def test_the_image_itself_is_corrected_for_the_first_unit() -> None:
    work = block(0)
    assert work.teacher_inputs == (None,)
    corrected = correct(work, PAPERS)
    assert float(difference(work, corrected).max()) > 1e-3
    assert corrected.inputs is work.inputs
