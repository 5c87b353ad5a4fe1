"""The tap on batch norms against batch norms themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isobit.calib.synthesis.statistics import (
    Statistics,
    alignment_loss,
    batch_statistics,
    image_moments,
    running,
    statistics_loss,
    watched_network,
)
from isobit.pipeline.graph.norms import FoldedNorm
from tests.examples.units import CPU, PAPER, net, recipe, subject

FLOOR = 1e-6  # of a variance, in the released code


def lively_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    for values in (norm.running_mean, norm.weight.data, norm.bias.data):
        values.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return norm


def folded(norm: nn.BatchNorm2d) -> FoldedNorm:
    factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    return FoldedNorm(factor, norm.bias.detach(), norm.running_mean, norm.running_var)


def seen_by(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What every batch norm of the un-folded network sees, in execution order."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, args, __: seen.append(args[0]))
        for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_the_tap_sees_what_every_batch_norm_sees(name: str) -> None:
    model, images = subject(name)
    quantized, _ = net(recipe("qdrop_w4a4"), name=name, target=PAPER)
    teacher = watched_network(quantized.graph, CPU)
    expected = seen_by(model, images)
    with torch.no_grad():
        (logits,), answers = teacher(images)
        torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)
    assert len(answers) == len(expected) > 3
    for answer, norm, value in zip(answers, teacher.norms, expected, strict=True):
        found, rows = batch_statistics(answer, norm), value.transpose(0, 1).flatten(1)
        torch.testing.assert_close(found.mean, rows.mean(1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.variance, rows.var(1, correction=0), rtol=1e-3, atol=1e-3)


def test_a_batch_with_the_running_statistics_loses_nothing() -> None:
    norm, value = lively_norm(4), torch.randn(6, 4, 5, 5)
    rows = value.transpose(0, 1).flatten(1)
    norm.running_mean.copy_(rows.mean(1))
    norm.running_var.copy_(rows.var(1, correction=0))
    with torch.no_grad():
        found = batch_statistics(norm(value), folded(norm))
    assert float(alignment_loss([found], [running(folded(norm))])) < 1e-9


def test_alignment_is_a_mean_over_norms_of_means_over_channels() -> None:
    found = [Statistics(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])), Statistics(*torch.ones(2, 1))]
    wanted = [Statistics(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0])), Statistics(*torch.ones(2, 1))]
    assert float(alignment_loss(found, wanted)) == pytest.approx((5.0 + 2.0) / 2)


def test_statistics_loss_is_the_papers_sum_over_batch_norms() -> None:
    torch.manual_seed(0)
    norms = [lively_norm(4), lively_norm(6)]
    values = [torch.randn(5, 4, 6, 6) * 2 + 1, torch.randn(5, 6, 3, 3)]
    values[0][:, 0] = 0.7  # a flat channel: its deviation is the floor's
    with torch.no_grad():
        found = statistics_loss(tuple(n(v) for n, v in zip(norms, values, strict=True)), [folded(n) for n in norms])
    expected = 0.0
    for norm, value in zip(norms, values, strict=True):
        mean = value.mean((2, 3))
        deviation = torch.sqrt(value.var((2, 3), unbiased=True) + FLOOR)
        wanted = torch.sqrt(norm.running_var + FLOOR)
        gaps = (mean - norm.running_mean, deviation - wanted)
        expected += sum(float(gap.square().sum(1).mean()) for gap in gaps)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_a_dead_channel_is_left_out() -> None:
    norm = FoldedNorm(torch.tensor([0.0, 1.0]), *torch.zeros(2, 2), torch.ones(2))
    answer = torch.randn(3, 2, 5, 5)
    other = answer.clone()
    other[:, 0] += 100.0
    assert float(statistics_loss((answer,), [norm])) == float(statistics_loss((other,), [norm]))
    assert batch_statistics(answer, norm).mean.shape == (1,)


def test_without_positions_only_means_are_compared() -> None:
    norm = FoldedNorm(torch.ones(4), torch.zeros(4), torch.full((4,), 0.5), torch.ones(4))
    answer = torch.randn(6, 4)
    expected = float(answer.square().sum(1).mean())
    assert float(statistics_loss((answer,), [norm])) == pytest.approx(expected, rel=1e-5)


def test_image_moments_are_those_of_each_image() -> None:
    values = torch.randn(3, 4, 5, 5) + 2
    mean, variance = image_moments(values, torch.full((4,), 2.0))
    torch.testing.assert_close(mean, values.mean((2, 3)) - 2)
    torch.testing.assert_close(variance, values.var((2, 3), correction=1))
