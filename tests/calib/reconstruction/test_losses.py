"""Losses: values by the papers' formulas, gradients against autograd, and what they do not depend on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from isobit.calib.reconstruction.losses import (
    full_fisher_gradient,
    full_fisher_loss,
    number_gradient,
    number_loss,
    prediction_gradient,
    prediction_loss,
    reconstruction_gradient,
    reconstruction_loss,
    score_gradient,
    score_loss,
)

SHAPES = [(6, 4, 3, 5), (6, 7)]


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def weights(shape: tuple[int, ...]) -> Tensor:
    return 1.0 + torch.rand(shape, generator=torch.Generator().manual_seed(9))


def by_autograd(loss: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    leaf = output.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", [2.0, 2.4, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_reconstruction_gradient_is_autograds(shape: tuple[int, ...], exponent: float, weighted: bool) -> None:
    output, target = pair(shape)
    weight = weights(shape) if weighted else None
    expected = by_autograd(lambda value: reconstruction_loss(value, target, exponent, weight), output)
    found = reconstruction_gradient(output, target, exponent, weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_fisher_gradient_is_autograds(shape: tuple[int, ...]) -> None:
    output, target = pair(shape)
    weight = weights(shape)
    expected = by_autograd(lambda value: full_fisher_loss(value, target, weight), output)
    torch.testing.assert_close(full_fisher_gradient(output, target, weight), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_prediction_gradient_is_autograds(temperature: float) -> None:
    logits, teacher = pair((6, 7))
    expected = by_autograd(lambda value: prediction_loss(value, teacher, temperature), logits)
    found = prediction_gradient(logits, teacher, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_values_are_the_formulas() -> None:
    output, target = pair((6, 4, 3, 5))
    weight = weights((6, 4, 3, 5))
    delta = (output - target).double()
    expected = (delta.abs() * weight).pow(2.4).sum(1).mean()
    assert float(reconstruction_loss(output, target, 2.4, weight)) == pytest.approx(float(expected), rel=1e-5)
    weighted = delta.abs() * weight
    dots = weighted.sum((1, 2, 3), keepdim=True)
    assert float(full_fisher_loss(output, target, weight)) == pytest.approx(
        float((dots * weighted).mean() / 100), rel=1e-5
    )


def test_prediction_loss_is_torchs_divergence_without_the_temperature_squared() -> None:
    logits, teacher = pair((6, 7))
    expected = F.kl_div(
        torch.log_softmax(logits / 4, 1), torch.log_softmax(teacher / 4, 1), reduction="batchmean", log_target=True
    )
    assert float(prediction_loss(logits, teacher, 4.0)) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_leave_their_arguments_alone() -> None:
    output, target = pair((6, 4, 3, 5))
    weight = weights((6, 4, 3, 5))
    kept = [value.clone() for value in (output, target, weight)]
    for exponent in (2.0, 2.4):
        reconstruction_gradient(output, target, exponent, weight)
    full_fisher_gradient(output, target, weight)
    prediction_gradient(output[:, :, 0, 0], target[:, :, 0, 0], 2.0)
    assert all(torch.equal(*values) for values in zip(kept, (output, target, weight), strict=True))


@pytest.mark.parametrize("gradient", [reconstruction_gradient, full_fisher_gradient])
def test_an_output_of_integers_has_a_gradient_of_floats(gradient: Callable[..., torch.Tensor]) -> None:
    """An argmax beside a float output: what stands for its gradient is finite and changes nothing of it."""
    output, target = torch.randint(0, 5, (6, 3, 5)), torch.randint(0, 5, (6, 3, 5))
    found = gradient(output, target, weight=weights((6, 3, 5)))
    assert found.is_floating_point() and found.shape == output.shape and bool(found.isfinite().all())


def test_tiling_changes_nothing_and_duplicated_channels_count_twice() -> None:
    output, target = pair((6, 4, 3, 5))
    loss = float(reconstruction_loss(output, target))
    tiled = reconstruction_loss(output.repeat(1, 1, 1, 2), target.repeat(1, 1, 1, 2))
    doubled = reconstruction_loss(output.repeat(1, 2, 1, 1), target.repeat(1, 2, 1, 1))
    assert float(tiled) == pytest.approx(loss, rel=1e-6) and float(doubled) == pytest.approx(2 * loss, rel=1e-6)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
def test_the_batch_size_does_not_matter_in_expectation(exponent: float) -> None:
    """Batches of any size that cover the images equally often have the whole set's loss on average."""
    output, target = pair((24, 4, 3, 5))
    whole = float(reconstruction_loss(output, target, exponent))
    for size in (1, 4, 12):
        parts = zip(output.split(size), target.split(size), strict=True)
        losses = [float(reconstruction_loss(*part, exponent)) for part in parts]
        assert sum(losses) / len(losses) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
def test_fisher_without_gradient_is_the_plain_error_and_never_less(exponent: float) -> None:
    """The diagonal form, whose weight is abs(G) + 1. The full form divides by 100 and has no such relation."""
    output, target = pair((6, 4, 3, 5))
    plain = reconstruction_loss(output, target, exponent)
    assert torch.equal(reconstruction_loss(output, target, exponent, torch.ones_like(output)), plain)
    for seed in range(5):
        gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
        assert float(reconstruction_loss(output, target, exponent, gradient.abs() + 1.0)) >= float(plain)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_no_prediction_difference_for_identical_logits(temperature: float) -> None:
    logits, other = pair((6, 7))
    assert float(prediction_loss(logits, logits.clone(), temperature)) == 0.0
    assert not prediction_gradient(logits, logits.clone(), temperature).any()
    assert float(prediction_loss(logits, other, temperature)) > 0.0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_is_the_difference_of_softmaxes(temperature: float) -> None:
    logits, teacher = pair((6, 7))
    expected = (torch.softmax(logits / temperature, 1) - torch.softmax(teacher / temperature, 1)) / (temperature * 6)
    torch.testing.assert_close(prediction_gradient(logits, teacher, temperature), expected, rtol=1e-6, atol=1e-8)


def test_gradients_of_scores_and_numbers_are_autograds() -> None:
    found, teacher = pair((6, 4, 3, 5))
    weight = torch.rand(6, 1, 3, 5)
    for loss, gradient, arguments in (
        (score_loss, score_gradient, (7.0,)), (number_loss, number_gradient, (7.0,)),
        (number_loss, number_gradient, (7.0, weight)),
    ):
        expected = by_autograd(lambda value, of=loss, more=arguments: of(value, teacher, *more), found)
        torch.testing.assert_close(gradient(found, teacher, *arguments), expected, rtol=1e-4, atol=1e-7)
        assert float(loss(teacher, teacher, *arguments)) == 0.0


def test_scores_are_compared_as_two_outcomes_each() -> None:
    found, teacher = pair((6, 4, 3, 5))
    pairs = [torch.stack([value, torch.zeros_like(value)], 1) for value in (found, teacher)]
    torch.testing.assert_close(score_loss(found, teacher), prediction_loss(*pairs, 1.0), rtol=1e-5, atol=1e-6)
