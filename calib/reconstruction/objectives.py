"""What a training step feeds a unit, and what it asks of the answer: the part in which the papers differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from isobit.calib.reconstruction.boundary import CachedValue
from isobit.calib.reconstruction.losses import (
    batch_loss,
    full_fisher_gradient,
    full_fisher_loss,
    reconstruction_gradient,
)
from isobit.calib.reconstruction.mixing import Keep, MaskSource, mix_inputs
from isobit.calib.reconstruction.predictions import FloatPredictions
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.reconstruction.tail import Tail


class Objective(Protocol):
    """One unit's batches and loss."""

    def inputs(self, index: Tensor) -> list[Tensor]:
        """The unit's inputs for the images `index`."""
        ...

    def gradients(self, outputs: Sequence[Tensor], index: Tensor) -> list[Tensor]:
        """Gradients of the loss, by each of the unit's `outputs`."""
        ...

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        """Its value, rank 0; nothing in it waits for the device."""
        ...


class Reconstruction:
    """The unit answers like the float network on inputs mixed of the quantized prefix's and the float network's.

    Args:
        keep_prob: probability that an input element comes from the quantized prefix; 1 for all of them.
        exponent: of the error; 2, or BRECQ's 2.4 for activation scales.
        weights: per output, what the error of each element is multiplied with; None for nothing (see `fisher_weights`).
    """

    def __init__(
        self, task: UnitTask, masks: MaskSource, keep_prob: Keep = 1.0, exponent: float = 2.0,
        weights: Sequence[CachedValue] | None = None,
    ) -> None:
        self.task, self.masks, self.keep_prob, self.exponent = task, masks, keep_prob, exponent
        self.weights: Sequence[CachedValue | None] = weights or [None] * len(task.targets)

    def inputs(self, index: Tensor) -> list[Tensor]:
        return [
            self._mixed(*pair, index) for pair in zip(self.task.inputs, self.task.teacher_inputs, strict=True)
        ]

    def _mixed(self, quantized: CachedValue, teacher: CachedValue | None, index: Tensor) -> Tensor:
        if teacher is None or (not isinstance(self.keep_prob, Tensor) and self.keep_prob >= 1.0):
            return quantized.rows(index)
        return mix_inputs(quantized.rows(index), teacher.rows(index), self.keep_prob, self.masks)

    def gradients(self, outputs: Sequence[Tensor], index: Tensor) -> list[Tensor]:
        return [
            reconstruction_gradient(
                output, target.rows(index), self.exponent, None if weight is None else weight.rows(index)
            )
            for output, target, weight in zip(outputs, self.task.targets, self.weights, strict=True)
        ]

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        return torch.stack([
            batch_loss(output, target.rows(index), self.exponent, None if weight is None else weight.rows(index))
            for output, target, weight in zip(outputs, self.task.targets, self.weights, strict=True)
        ]).sum()


class FullFisher(Reconstruction):
    """BRECQ's `fisher_full`: with d_i the dot product of image i's weighted errors, the mean of d_i^2 / 100.

    The released code averages d_i * weighted error over all elements, hence the division by their number.
    """

    @property
    def _fisher(self) -> list[CachedValue]:
        """The weights, which there are for every output."""
        return [weight for weight in self.weights if weight is not None]

    def gradients(self, outputs: Sequence[Tensor], index: Tensor) -> list[Tensor]:
        return [
            full_fisher_gradient(output, target.rows(index), weight.rows(index))
            for output, target, weight in zip(outputs, self.task.targets, self._fisher, strict=True)
        ]

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        return torch.stack([
            full_fisher_loss(output, target.rows(index), weight.rows(index))
            for output, target, weight in zip(outputs, self.task.targets, self._fisher, strict=True)
        ]).sum()


class PredictionDifference(Reconstruction):
    """PD-Quant: reconstruction, plus the difference of the network's predictions.

    The unit runs once on two halves: A, mixed as in `Reconstruction`, is compared with the target; the answer to B,
    from the quantized prefix alone, goes through the float tail. What is dropped inside the unit is dropped in both.

    Args:
        tail: the rest of the network in float.
        predictions: of the float network for the original images, and their distance.
        weight: of the prediction difference (the paper's 1 / lambda_r).
        images: how many of a step's images make half B; None for all.
    """

    def __init__(
        self, task: UnitTask, masks: MaskSource, keep_prob: float, tail: Tail, predictions: FloatPredictions,
        weight: float, images: int | None = None,
    ) -> None:
        super().__init__(task, masks, keep_prob)
        self.images = images
        self.tail, self.predictions, self.weight = tail, predictions, weight

    def inputs(self, index: Tensor) -> list[Tensor]:
        plain = [value.rows(index[: self.images]) for value in self.task.inputs]
        return [torch.cat(halves) for halves in zip(super().inputs(index), plain, strict=True)]

    def gradients(self, outputs: Sequence[Tensor], index: Tensor) -> list[Tensor]:
        count = index.shape[0]
        first = super().gradients([output[:count] for output in outputs], index)
        index = index[: self.images]
        second = self.tail.gradients(
            [output[count:] for output in outputs], index, lambda found: self.predictions.gradients(found, index)
        )
        return [torch.cat([a, b.mul_(self.weight)]) for a, b in zip(first, second, strict=True)]

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        count = index.shape[0]
        first = super().loss([output[:count] for output in outputs], index)
        index = index[: self.images]
        found = self.tail.predictions([output[count:] for output in outputs], index)
        return first + self.weight * self.predictions.loss(found, index)


Fisher = Literal["off", "diag", "full"]


def fisher_weights(task: UnitTask, tail: Tail, predictions: FloatPredictions) -> tuple[CachedValue, ...]:
    """Per output of the unit: abs(gradient) + 1 for all images, BRECQ's Fisher cache.

    The gradient is that of the distance of the predictions with everything up to this unit quantized (of a classifier,
    KL(float logits || logits)) by the unit's output, summed over the batch as in the released code's `batchmean` times
    the batch: one image's does not depend on others.
    """
    stored = tuple(task.empty() for _ in task.targets)
    for part in task.batches():
        index = torch.arange(part.start, part.stop, device=task.device)
        with torch.no_grad():
            outputs = task.student(*(value.rows(part) for value in task.inputs))
        count = part.stop - part.start

        def pulls(found: dict[str, Tensor], part: slice = part, count: int = count) -> dict[str, Tensor]:
            return {name: each * count for name, each in predictions.gradients(found, part).items()}

        gradients = tail.gradients(outputs, index, pulls)
        for kept, gradient in zip(stored, gradients, strict=True):
            kept.append(gradient.abs_().add_(1.0))
    return stored
