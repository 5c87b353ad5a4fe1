"""FDDA: Fine-grained Data Distribution Alignment for Post-Training Quantization.

Zhong, Lin, Li, Nan, Liu, Ye, Ji; ECCV 2022, arXiv 2109.04186. One labelled image of each class gives each class a
centre: the batch-norm statistics of that image alone. GDFQ's generator learns to meet the centres of single classes as
well (centralised), with noise added (distorted), in the deep half of the network, where classes differ; and the
student learns from generated and real images together. With q a class whose image T recognises, x_q = G(z, q), and
centres c_q in the batch norms from number floor((L + 1) / 2) - 2 on:

    L_G = 0.5 CE(T(x), y) + 0.2 L_BNS(x) + 0.5 CE(T(x_q), q) + 0.9 L(x_q; c_q + noise) + 0.01 L(x_q; c_q)

The noise is drawn anew at every step. The student learns from 16 real and as many generated images, all cropped and
mirrored, with 20 tau^2 as the divergence's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as vision

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.rates import cosine_factor
from isobit.calib.synthesis.generative import GenerativeParameters, generator_cost, run, student_cost
from isobit.calib.synthesis.generator import Conditioning, GeneratedBatch, GeneratorTrainer
from isobit.calib.synthesis.statistics import Statistics, Watched, alignment_loss, batch_statistics, watched_network
from isobit.calib.training.tracking import Tracking
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.stages import UnitLog

MEAN_NOISE, VARIANCE_NOISE = 0.5, 1.0  # standard deviations of what is added to a centre


class FddaParameters(GenerativeParameters):
    """Defaults are the authors' code's and paper's for ImageNet.

    Args:
        conditioning: see `GenerativeParameters`; FDDA has the ImageNet variant.
        trust_epochs: how many epochs classes that the float network gets wrong are used, with noise for a centre.
        label_weight, statistics_weight: of batches of random labels: cross entropy, and L_BNS.
        class_label_weight, distorted_weight, centralised_weight: of batches of one class: cross entropy, and the two
            alignments with its centre.
        distillation: the divergence of an image counts this times T^2.
        real_images: of a student's batch, beside as many generated ones as `images.batch_size`.
        crop: least share of the area that a random crop of a real image keeps; 1 takes images as they are.
        generated_crop: the same, of the generated images, which are cropped all alike.
        flip: mirror images at random.
        rate_period: epochs after which the student's rate, a cosine, has come down to 0. It is not restarted and comes
            back up, as in the authors' run of 400 epochs with a period of 100.
    """

    epochs: int = Field(default=400, ge=1)
    warmup_epochs: int = Field(default=50, ge=0)
    learning_rate: float = Field(default=1e-6, gt=0.0)
    conditioning: Conditioning = "norm"
    tracking: Tracking = "ema_raw"
    trust_epochs: int = Field(default=5, ge=0)
    label_weight: float = Field(default=0.5, ge=0.0)
    statistics_weight: float = Field(default=0.2, ge=0.0)
    class_label_weight: float = Field(default=0.5, ge=0.0)
    distorted_weight: float = Field(default=0.9, ge=0.0)
    centralised_weight: float = Field(default=0.01, ge=0.0)
    distillation: float = Field(default=20.0, ge=0.0)
    real_images: int = Field(default=16, ge=0)
    crop: float = Field(default=0.08, gt=0.0, le=1.0)
    generated_crop: float = Field(default=0.5, gt=0.0, le=1.0)
    flip: bool = True
    rate_period: int = Field(default=100, ge=1)


def first_aligned(norms: int) -> int:
    """The first batch norm, from 0, whose statistics are aligned with class centres: 8 of 20, 12 of 27, 24 of 52."""
    return max(0, (norms + 1) // 2 - 2)


@dataclass(frozen=True)
class Centres:
    """What the float network says about one image of each class.

    Args:
        statistics: by class, of every batch norm's input, for that image alone.
        trusted: classes whose image it recognises.
    """

    statistics: dict[int, list[Statistics]]
    trusted: tuple[int, ...]


@torch.no_grad()
def find_centres(teacher: Watched, images: Tensor, labels: Tensor, device: torch.device) -> Centres:
    """Centres from images [N, C, H, W] and labels [N]: the first image of a class is the one.

    Raises:
        CalibrationError: no class is recognised.
    """
    statistics: dict[int, list[Statistics]] = {}
    trusted = []
    for image, label in zip(images, labels.tolist(), strict=True):
        if label in statistics:
            continue
        (logits,), answers = teacher(image[None].to(device))
        statistics[label] = [batch_statistics(a, norm) for a, norm in zip(answers, teacher.norms, strict=True)]
        if int(logits.argmax()) == label:
            trusted.append(label)
    if not trusted:
        raise CalibrationError(
            f"the float network recognises none of the {len(statistics)} classes' images", where="method fdda",
            hint="check `mean` and `std`, the labels, and the order of the classes", field="calibration",
        )
    return Centres(statistics, tuple(trusted))


def distorted(centre: Sequence[Statistics], random: torch.Generator) -> list[Statistics]:
    """A centre with fresh normal noise on means (deviation 0.5) and variances (1.0, which may become negative)."""
    return [
        Statistics(s.mean + MEAN_NOISE * _noise(s.mean, random), s.variance + VARIANCE_NOISE * _noise(s.mean, random))
        for s in centre
    ]


def pure_noise(like: Sequence[Statistics], random: torch.Generator) -> list[Statistics]:
    """Normal noise in the place of a centre, for means and variances alike."""
    return [Statistics(_noise(s.mean, random), _noise(s.mean, random)) for s in like]


def _noise(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random).to(like)


class Fdda:
    """A `calib.synthesis.generative.GenerativeMethod`."""

    def __init__(self, calibration: Calibration, parameters: FddaParameters) -> None:
        self.parameters = parameters
        self.device, self.images = calibration.device, calibration.only_images
        self.labels = calibration.known_labels.to(calibration.device)
        self.random = torch.Generator().manual_seed(calibration.seed("fdda"))
        teacher = watched_network(calibration.graph, calibration.device)
        self.centres = find_centres(teacher, calibration.only_images, calibration.known_labels, calibration.device)
        self.start = first_aligned(len(teacher.norms))
        self._order: list[int] = []

    # -- the generator -------------------------------------------------------------------------------------------

    def generator_loss(self, generated: GeneratedBatch, trainer: GeneratorTrainer, epoch: int) -> Tensor:
        """The loss of a batch of random labels, and of a second one of a single class."""
        weights, label = self.parameters, self.draw_class(epoch)
        ordered = trainer.draw(label)
        return (
            weights.label_weight * F.cross_entropy(generated.logits, generated.labels)
            + weights.statistics_weight * alignment_loss(generated.statistics, trainer.running)
            + weights.class_label_weight * F.cross_entropy(ordered.logits, ordered.labels)
            + self.class_loss(ordered.statistics, label)
        )

    def draw_class(self, epoch: int) -> int:
        """Any class with an image in the first epochs, then only what the float network recognises."""
        classes = list(self.centres.statistics) if epoch < self.parameters.trust_epochs else self.centres.trusted
        return classes[int(torch.randint(len(classes), (1,), generator=self.random))]

    def class_loss(self, found: Sequence[Statistics], label: int) -> Tensor:
        """Weighted centralised and distorted alignment in the deep half; noise everywhere for a class not trusted."""
        weights = self.parameters
        if label not in self.centres.trusted:
            return weights.distorted_weight * 2.0 * alignment_loss(found, pure_noise(found, self.random))
        deep, centre = found[self.start :], self.centres.statistics[label][self.start :]
        return (
            weights.distorted_weight * alignment_loss(deep, distorted(centre, self.random))
            + weights.centralised_weight * alignment_loss(deep, centre)
        )

    # -- the student ---------------------------------------------------------------------------------------------

    def student_batch(self, generated: GeneratedBatch, trainer: GeneratorTrainer) -> tuple[Tensor, Tensor, Tensor]:
        """Real and generated images, both augmented, and the float network's answers to what they have become."""
        places = self._next_real()
        real = [self._augmented(self.images[place], self.parameters.crop) for place in places]
        made = self._augmented(generated.images.detach(), self.parameters.generated_crop)
        images = torch.cat([torch.stack(real).to(self.device), made]) if real else made
        labels = torch.cat([self.labels[places], generated.labels]) if real else generated.labels
        with torch.no_grad():
            logits = trainer.judge(images, labels).logits
        return images, labels, logits

    def _next_real(self) -> list[int]:
        """The next places of the shuffled set; what is left over of a pass is dropped, as by the authors' loader."""
        count = min(self.parameters.real_images, len(self.images))
        if len(self._order) < count:
            self._order = torch.randperm(len(self.images), generator=self.random).tolist()
        taken, self._order = self._order[:count], self._order[count:]
        return taken

    def _augmented(self, images: Tensor, least: float) -> Tensor:
        """`images` [..., H, W] cropped to a share of the area and resized, and mirrored, by one draw for all."""
        height, width = images.shape[-2:]
        if least < 1.0:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=self.random)))
                box = RandomResizedCrop.get_params(images, [least, 1.0], [3 / 4, 4 / 3])
            images = vision.resized_crop(images, *box, [height, width], InterpolationMode.BILINEAR, antialias=True)
        mirror = self.parameters.flip and bool(torch.randint(2, (1,), generator=self.random))
        return images.flip(-1) if mirror else images

    def student_rate(self, epoch: int, step: int) -> float:
        """Cosine over `rate_period` epochs from the end of the warm-up, by steps, and on as the cosine goes."""
        passed = (epoch - self.parameters.warmup_epochs) * self.parameters.steps + step
        period = self.parameters.rate_period * self.parameters.steps
        return self.parameters.learning_rate * cosine_factor(passed, period)

    def state(self) -> dict[str, Any]:
        """Where the random numbers are, and what is left of a pass over the real images."""
        return {"random": self.random.get_state(), "order": list(self._order)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.random.set_state(state["random"])
        self._order = list(state["order"])


def _cost(parameters: FddaParameters, facts: CostFacts) -> Cost:
    """Two batches for the generator; the float network judges what the student sees once more."""
    seen = facts.batch + min(parameters.real_images, facts.images)
    seen_again = facts.network * (seen * max(0, parameters.epochs - parameters.warmup_epochs) * parameters.steps)
    return generator_cost(parameters, facts) * 2 + student_cost(parameters, facts, seen) + seen_again


@method("fdda", FddaParameters, needs={"images", "labels", "bn_statistics", "tail", "one_input"}, cost=_cost)
def fdda(calibration: Calibration, parameters: FddaParameters) -> tuple[UnitLog, ...]:
    """Find the centres, then train generator and student in turns; there is no unit log."""
    paper = Fdda(calibration, parameters)
    found = paper.centres
    calibration.findings.notes.append(
        f"{len(found.trusted)} of {len(found.statistics)} classes have an image that the float network recognises"
    )
    run(calibration, parameters, paper, parameters.distillation * parameters.temperature**2)
    return ()
