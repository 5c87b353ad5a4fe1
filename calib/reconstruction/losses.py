"""The losses of the reconstruction methods, each as a value and as its gradient by the output in closed form.

Values serve logs, guards and tests; a training step starts its backward pass from the gradient. Reduction as in all of
the papers' code: mean over images and positions, sum over channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from isobit.pipeline.shapes import positions

# Sums of powers of errors of which float32 lost no part to underflow.
LOSS_RANGE = (2.0**-60, 2.0**100)


def _weighted(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    error = (output - target).abs()
    return error if weight is None else error * weight


def batch_loss(output: Tensor, target: Tensor, exponent: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """`reconstruction_loss` without a look at its value, which would wait for the device: 0 or inf out of range."""
    return _weighted(output, target, weight).pow(exponent).sum() / (output.shape[0] * positions(output))


def reconstruction_loss(output: Tensor, target: Tensor, exponent: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Mean over images and positions of the sum over channels of (weight * abs(output - target))^exponent."""
    error = _weighted(output, target, weight)
    total = error.pow(exponent).sum()
    if not LOSS_RANGE[0] <= float(total.detach()) <= LOSS_RANGE[1]:
        total = error.double().pow(exponent).sum()  # errors in units that float32 cannot square
    return total / (output.shape[0] * positions(output))


def reconstruction_gradient(
    output: Tensor, target: Tensor, exponent: float = 2.0, weight: Tensor | None = None
) -> Tensor:
    """Gradient of `reconstruction_loss` by `output`."""
    error = output.detach() - target
    error = error if error.is_floating_point() else error.float()  # an output of integers, which has no gradient
    factor = exponent / (output.shape[0] * positions(output))
    if exponent != 2.0:
        error = error.abs().pow_(exponent - 1.0).copysign_(error)
    if weight is not None:
        error.mul_(weight.pow(exponent))
    return error.mul_(factor)


def full_fisher_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over all elements of d_i * weighted error / 100, d_i summed over the elements of image i."""
    dots = ((output - target).abs() * weight).flatten(1).sum(1)
    return dots.square().sum() / (100.0 * output.numel())


def full_fisher_gradient(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Gradient of `full_fisher_loss` by `output`."""
    error = output.detach() - target
    dots = (error.abs() * weight).flatten(1).sum(1).reshape(-1, *[1] * (output.dim() - 1))
    return error.sign_().mul(weight).mul_(dots).mul_(2.0 / (100.0 * output.numel()))


def prediction_loss(
    logits: Tensor, teacher: Tensor, temperature: float, axis: int = 1, share: float = 1.0
) -> Tensor:
    """KL(softmax(teacher / T) || softmax(logits / T)), summed over classes, averaged over images; no factor T^2.

    Args:
        axis: of the classes; of several positions the sum counts.
        share: what the sum is divided by beside the number of images.
    """
    log_teacher = torch.log_softmax(teacher / temperature, dim=axis)
    difference = log_teacher - torch.log_softmax(logits / temperature, dim=axis)
    return (log_teacher.exp() * difference).sum() / (logits.shape[0] * share)


def prediction_gradient(
    logits: Tensor, teacher: Tensor, temperature: float, axis: int = 1, share: float = 1.0
) -> Tensor:
    """Gradient of `prediction_loss` by `logits`."""
    difference = torch.softmax(logits / temperature, dim=axis) - torch.softmax(teacher / temperature, dim=axis)
    return difference.div_(temperature * (logits.shape[0] * share))


def score_loss(logits: Tensor, teacher: Tensor, share: float = 1.0) -> Tensor:
    """KL of yes and no, sigmoid(teacher) || sigmoid(logits), summed over an image and averaged over images, by `share`.

    A class of a sigmoid stands alone: its two outcomes are a distribution of their own.
    """
    sure = torch.sigmoid(teacher)
    yes = F.logsigmoid(teacher) - F.logsigmoid(logits)
    no = F.logsigmoid(-teacher) - F.logsigmoid(-logits)
    return (sure * yes + (1.0 - sure) * no).sum() / (logits.shape[0] * share)


def score_gradient(logits: Tensor, teacher: Tensor, share: float = 1.0) -> Tensor:
    """Gradient of `score_loss` by `logits`."""
    return (torch.sigmoid(logits) - torch.sigmoid(teacher)).div_(logits.shape[0] * share)


def number_loss(values: Tensor, teacher: Tensor, share: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Squared error times `weight`, summed over an image and averaged over images, by `share`.

    Args:
        weight: broadcasts against the values: the score of each position.
    """
    squares = (values - teacher).square()
    return (squares if weight is None else squares * weight).sum() / (values.shape[0] * share)


def number_gradient(values: Tensor, teacher: Tensor, share: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Gradient of `number_loss` by `values`."""
    error = values.detach() - teacher
    return (error if weight is None else error.mul_(weight)).mul_(2.0 / (values.shape[0] * share))
