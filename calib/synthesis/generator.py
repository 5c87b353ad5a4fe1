"""The conditional generator of GDFQ and FDDA, and the step that trains it against the float network.

Its loss asks that the float network puts the images into the classes that were ordered, and that every batch norm
sees the statistics that it saw in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost
from isobit.calib.precision import Precision, resolve_precision
from isobit.calib.synthesis.distill import Input, input_moments
from isobit.calib.synthesis.statistics import (
    Statistics,
    Watched,
    alignment_loss,
    batch_statistics,
    running,
    watched_network,
)

Conditioning = Literal["embedding", "norm"]

LATENT = 100
WIDE, NARROW = 128, 64  # channels of the trunk
SLOPE = 0.2
# The authors' code passes 0.8 where eps stands, in the place of a momentum; a faithful generator keeps it.
LATE_EPS = 0.8
BETAS = (0.5, 0.999)


class ConditionalNorm(nn.Module):
    """Batch norm without parameters, then one factor and shift a class and channel; they start as 1 and 0."""

    def __init__(self, channels: int, classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=eps, affine=False)
        self.factor, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.factor.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        factor, shift = self.factor(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        return factor * self.norm(x) + shift


class PlainNorm(nn.BatchNorm2d):
    """An ordinary batch norm that is told the labels as well."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Generator(nn.Module):
    """Noise and labels -> images; always in training mode, because its last batch norm gives the images their moments.

    Args:
        shape: (C, H, W) of an image. Sides that four does not divide are cut from the next larger image.
        classes: how many labels there are.
        conditioning: `embedding` multiplies the noise with a learned vector a class (the authors' CIFAR variant);
            `norm` has batch norms conditional on the class (their ImageNet variant, and FDDA's).
        mean, deviation: of the images, per channel [C] or one number for each value [C, H, W]; (0, 1) for inputs that
            are normalised as in training.
    """

    mean: Tensor | None
    deviation: Tensor | None

    def __init__(
        self, shape: Sequence[int], classes: int, conditioning: Conditioning, mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.conditioning = tuple(shape), conditioning
        channels, *sides = self.shape
        self.start = [math.ceil(side / 4) for side in sides]
        self.embedding = nn.Embedding(classes, LATENT) if conditioning == "embedding" else None
        self.first = nn.Linear(LATENT, WIDE * math.prod(self.start))

        def norm(width: int, eps: float) -> nn.Module:
            return PlainNorm(width, eps=eps) if self.embedding is not None else ConditionalNorm(width, classes, eps)

        self.norms = nn.ModuleList([norm(WIDE, 1e-5), norm(WIDE, LATE_EPS), norm(NARROW, LATE_EPS)])
        self.convolutions = nn.ModuleList([nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.Conv2d(WIDE, NARROW, 3, padding=1)])
        self.last = nn.Conv2d(NARROW, channels, 3, padding=1)
        self.output_norm = nn.BatchNorm2d(channels, affine=False)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images [N, C, H, W] from noise [N, 100] and labels [N]."""
        if self.embedding is not None:
            noise = noise * self.embedding(labels)
        x = self.first(noise).reshape(-1, WIDE, *self.start).contiguous(memory_format=torch.channels_last)
        x = self.norms[0](x, labels)
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            x = convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = F.leaky_relu(norm(x, labels), SLOPE)
        x = self.last(x)[:, :, : self.shape[1], : self.shape[2]]
        x = self.output_norm(torch.tanh(x.float()))
        if self.deviation is None or self.mean is None:
            return x
        rank = (-1, 1, 1) if self.deviation.dim() == 1 else self.shape
        return x * self.deviation.reshape(rank) + self.mean.reshape(rank)


@dataclass(frozen=True)
class GeneratedBatch:
    """A batch of generated images, and what the float network says about it.

    Args:
        images: float32 [N, C, H, W].
        labels: int64 [N], what was ordered.
        logits: float32 [N, classes].
        statistics: of every batch norm's input.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    statistics: list[Statistics]

    @property
    def obeyed(self) -> float:
        """Share of the images that the float network puts into the class that was ordered."""
        return float((self.logits.argmax(1) == self.labels).float().mean())


class GeneratorTrainer:
    """A generator, the float network that judges it, and one seeded stream of noise.

    Args:
        generator: on `device`.
        teacher: see `calib.synthesis.statistics.watched_network`.
        classes: labels are drawn from 0 ... classes - 1.
        batch: images of one step.
        learning_rate: of Adam with betas (0.5, 0.999).
        seed: of noise and labels.
        precision: of the convolutions of generator and teacher; statistics, losses and images are float32.
    """

    def __init__(
        self, generator: Generator, teacher: Watched, classes: int, batch: int, learning_rate: float, seed: int,
        precision: Precision, device: torch.device,
    ) -> None:
        self.generator, self.teacher, self.classes, self.batch = generator, teacher, classes, batch
        self.optimiser = torch.optim.Adam(generator.parameters(), lr=learning_rate, betas=BETAS)
        self.random = torch.Generator().manual_seed(seed)
        self.device, self._dtype = device, resolve_precision(precision, device)
        self.running = [running(norm) for norm in teacher.norms]

    def draw(self, label: int | None = None) -> GeneratedBatch:
        """A new batch of random labels, or of one, with its graph for gradients by the generator."""
        noise = torch.randn(self.batch, LATENT, generator=self.random).to(self.device)
        labels = torch.randint(self.classes, (self.batch,), generator=self.random).to(self.device)
        labels = labels if label is None else torch.full_like(labels, label)
        with self._coarse():
            images = self.generator(noise, labels)
        return self.judge(images, labels)

    def judge(self, images: Tensor, labels: Tensor) -> GeneratedBatch:
        """What the float network says about `images`."""
        with self._coarse():
            (logits,), answers = self.teacher(images)
        statistics = [batch_statistics(a, norm) for a, norm in zip(answers, self.teacher.norms, strict=True)]
        return GeneratedBatch(images, labels, logits.float(), statistics)

    def step(self, loss: Callable[[], Tensor]) -> float:
        """One step of Adam on `loss()`; returns its value."""
        value = loss()
        parameters = list(self.generator.parameters())
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        return float(value.detach())

    def learn(self, generated: GeneratedBatch, loss: Callable[[], Tensor]) -> dict[str, float]:
        """One step on `loss()`, and what is reported of it and of the batch."""
        value = self.step(loss)
        with torch.no_grad():
            aligned = float(alignment_loss(generated.statistics, self.running))
        return {"generator": value, "statistics": aligned, "obeyed": generated.obeyed}

    @torch.no_grad()
    def collect(self, count: int) -> tuple[Tensor, Tensor, str]:
        """`count` images, their labels, and in a sentence how many of all that were drawn obey."""
        drawn = [self.draw() for _ in range(-(-count // self.batch))]
        images, labels = (torch.cat([getattr(j, part) for j in drawn])[:count] for part in ("images", "labels"))
        obeyed = sum(generated.obeyed for generated in drawn) / len(drawn)
        return images, labels, (
            f"the float network puts {100 * obeyed:.0f} % of the generated images into the class that was ordered"
        )

    def state(self) -> dict[str, Any]:
        """Generator, optimiser, and where the random numbers are."""
        return {
            "generator": self.generator.state_dict(), "adam": self.optimiser.state_dict(),
            "noise": self.random.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; other keys are somebody else's."""
        self.generator.load_state_dict(state["generator"])
        self.optimiser.load_state_dict(state["adam"])
        self.random.set_state(state["noise"])

    def _coarse(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32)


def gdfq_loss(generated: GeneratedBatch, wanted: Sequence[Statistics], statistics_weight: float = 0.1) -> Tensor:
    """GDFQ's generator loss: CE(teacher(x), y) + 0.1 * L_BNS."""
    aligned = alignment_loss(generated.statistics, wanted)
    return F.cross_entropy(generated.logits, generated.labels) + statistics_weight * aligned


def make_generator(
    shape: Sequence[int], classes: int, conditioning: Conditioning, seed: int, device: torch.device,
    mean: Tensor | None = None, deviation: Tensor | None = None,
) -> Generator:
    """A fresh generator whose start depends on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Generator(shape, classes, conditioning, mean, deviation)
    return made.to(device).to(memory_format=torch.channels_last)


def make_generator_trainer(
    calibration: Calibration, conditioning: Conditioning, input: Input, batch: int, learning_rate: float,
    precision: Precision,
) -> GeneratorTrainer:
    """A fresh generator against the float network of `calibration`; `input: free` gives it the input's moments."""
    device, classes = calibration.device, calibration.classes
    teacher = watched_network(calibration.graph, device)
    moments = (None, None)
    if input == "free":
        moments = input_moments(teacher, calibration.shape, calibration.seed("moments"), device)
    generator = make_generator(
        calibration.shape, classes, conditioning, calibration.seed("generator"), device, *moments
    )
    seed = calibration.seed("noise")
    return GeneratorTrainer(generator, teacher, classes, batch, learning_rate, seed, precision, device)


def image_cost(shape: Sequence[int]) -> Cost:
    """One image (C, H, W) out of a `Generator`."""
    channels, *sides = shape
    start = math.prod(math.ceil(side / 4) for side in sides)
    middle, end = 4 * start, 16 * start  # pixels after each of the two enlargements
    macs = LATENT * WIDE * start + 9 * (WIDE * WIDE * middle + WIDE * NARROW * end + NARROW * channels * end)
    return Cost(macs, WIDE * start + WIDE * middle + (NARROW + channels) * end)
