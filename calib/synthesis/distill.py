"""Images out of batch norms: pixels are optimised until every batch norm sees its running statistics (ZeroQ).

ZeroQ: A Novel Zero Shot Quantization Framework (Cai et al., CVPR 2020), arXiv 2001.00281.
Departures from the paper: statistics are those of the batch norms' inputs and not of the outputs of
convolutions that are paired with batch norms by their number, which is the same network where the pairing is right;
channels whose factor is zero tell nothing and are left out; `unit` may be switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isobit.calib.cost import STEERED, Cost, CostFacts
from isobit.calib.precision import Precision, resolve_precision
from isobit.calib.synthesis.statistics import VARIANCE_FLOOR, Watched, image_moments, statistics_loss
from isobit.pipeline.errors import CalibrationError

# The start of the authors' code: integers 0 ... 254, centred, over a variance where a deviation was meant.
LEVELS, CENTRE, DIVISOR = 255, 127.5, 5418.75
DECAY, PATIENCE, LOWEST_RATE = 0.1, 100, 1e-4
MOMENT_IMAGES = 32

Input = Literal["unit", "free"]  # normalised as in training: mean 0 and deviation 1 in each channel; or not


@dataclass(frozen=True)
class Distillation:
    """How pixels are optimised; the defaults are the authors'.

    Args:
        iterations: steps of Adam.
        learning_rate: of Adam, in units of the input; a tenth of it where the loss rests for 100 steps.
        unit: ask for mean 0 and deviation 1 in each channel of each image, as normalised inputs have them. False for
            inputs that are not normalised: then nothing but the network tells their scale.
        precision: of the network's layers; pixels, statistics and the loss are float32.
    """

    iterations: int = 500
    learning_rate: float = 0.5
    unit: bool = True
    precision: Precision = "float32"


class Pixels:
    """One batch of images on their way, and what moves them.

    Args:
        watched: the float network with its tap; only its answers are read, so `Watched(..., outputs=False)` is faster.
        shape: (C, H, W) of an image.
        count: images of the batch.
        seed: of the start; it decides the images on one device.

    Raises:
        CalibrationError: the network has no batch norm.
    """

    def __init__(
        self, watched: Watched, shape: Sequence[int], count: int, seed: int, device: torch.device, how: Distillation
    ) -> None:
        if not watched.norms:
            raise CalibrationError(
                "images cannot be distilled: the model has no batch norm after a layer",
                hint="Give calibration images and another images.source.", field="recipe.images.source",
            )
        self._watched, self._unit = watched, how.unit
        self._dtype = resolve_precision(how.precision, device)
        self._images = first_images(shape, count, seed).to(device).requires_grad_(True)
        self._optimiser = torch.optim.Adam([self._images], lr=how.learning_rate)
        self._schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimiser, factor=DECAY, patience=PATIENCE, min_lr=min(LOWEST_RATE, how.learning_rate)
        )

    @property
    def images(self) -> Tensor:
        """float32 [count, C, H, W] as they are now."""
        return self._images.detach()

    def step(self) -> float:
        """One step of Adam; returns the loss before it."""
        loss = distillation_loss(self._watched, self._images, self._unit, self._dtype)
        (self._images.grad,) = torch.autograd.grad(loss, [self._images])
        self._optimiser.step()
        value = float(loss.detach())
        self._schedule.step(value)
        return value


def distil(
    watched: Watched, shape: Sequence[int], count: int, seed: int, device: torch.device,
    how: Distillation | None = None,
) -> Tensor:
    """One batch of images that give the float network's batch norms what they saw in training.

    Returns:
        float32 [count, C, H, W] on `device`; see `Pixels`.
    """
    how = how or Distillation()
    pixels = Pixels(watched, shape, count, seed, device, how)
    for _ in range(how.iterations):
        pixels.step()
    return pixels.images


def first_images(shape: Sequence[int], count: int, seed: int) -> Tensor:
    """The start: nearly black, deviation 0.0136, as the authors' code has it. float32 [count, *shape] on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(LEVELS, (count, *shape), generator=generator)
    # Channels last: convolution kernels then copy neither images nor their gradients.
    return ((levels - CENTRE) / DIVISOR).contiguous(memory_format=torch.channels_last)


def distillation_loss(watched: Watched, images: Tensor, unit: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """ZeroQ's loss: the statistics of every batch norm's input, and of the images themselves where `unit` says so."""
    with torch.autocast(images.device.type, dtype, enabled=dtype is not torch.float32):
        _, answers = watched(images)
    loss = statistics_loss(tuple(answer.float() for answer in answers), watched.norms)
    return loss + unit_loss(images) if unit else loss


def unit_loss(images: Tensor) -> Tensor:
    """Mean over images of ||mean||^2 + ||deviation - 1||^2, each over the channels of an image."""
    mean, variance = image_moments(images, images.new_zeros(images.shape[1]))
    deviation = torch.sqrt(variance + VARIANCE_FLOOR)
    return mean.square().sum(1).mean() + (deviation - 1).square().sum(1).mean()


def input_moments(
    watched: Watched, shape: Sequence[int], seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of every value of the network's input, [C, H, W] each, found without data.

    For inputs that are not normalised (MFCC features, raw pixels) nothing in a model file says how large they are but
    the batch norms: one batch is distilled with the image term left out, and its moments are taken. A generator's
    last batch norm, which makes mean 0 and deviation 1, is brought to them. Each value has its own, because such
    inputs need not be alike everywhere (the first coefficient of an MFCC is ten times the others), and a network that
    tells places apart has that in its batch norms.
    """
    images = distil(watched, shape, MOMENT_IMAGES, seed, device, Distillation(unit=False))
    return images.mean(0), images.std(0)


def distillation_cost(facts: CostFacts, images: int, iterations: int) -> Cost:
    """So many images, optimised for so many steps."""
    return facts.network * (STEERED * images * iterations)


def moments_cost(facts: CostFacts) -> Cost:
    """Cost of `input_moments`."""
    return distillation_cost(facts, MOMENT_IMAGES, Distillation().iterations)
