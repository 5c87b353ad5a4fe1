"""Generator and student in turns: the training that GDFQ and FDDA share; what differs is a `GenerativeMethod`.

One step: images are drawn, the float network judges them, the generator takes a
step, and the student learns from the same images, made before that step. While the generator is still alone, the
student only looks on, for its activation ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.cost import STEERED, TRAINED, Cost, CostFacts
from isobit.calib.parameters import Parameters
from isobit.calib.precision import Precision
from isobit.calib.ranges.averages import Averages, averaged_inputs
from isobit.calib.synthesis.distill import Input, moments_cost
from isobit.calib.synthesis.generator import (
    Conditioning,
    GeneratedBatch,
    GeneratorTrainer,
    image_cost,
    make_generator_trainer,
)
from isobit.calib.training.finetune import (
    MILESTONES,
    Milestones,
    milestone_factor,
    set_rate,
    share_right,
    student_loss,
    train,
)
from isobit.calib.training.student import FixedGrid, MinMaxWeights, NormMode, Student
from isobit.calib.training.tracking import TrackedRange, Tracking
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.samples.pictures import SHOWN


class GenerativeParameters(Parameters):
    """What both papers have.

    Args:
        epochs, steps: of the whole training, and of an epoch.
        range_epochs: how many epochs the student's activation ranges follow the generated images before they stay.
        warmup_epochs: how many the generator learns alone, before the student is trained.
        learning_rate: of the student: SGD with Nesterov momentum 0.9.
        weight_decay: on all of its parameters.
        generator_learning_rate: of Adam.
        milestones: shares of the epochs at which learning rates fall to a tenth: 100, 200 and 300 of 400 in the papers.
        conditioning: of the generator: `embedding` (GDFQ's CIFAR variant) or `norm` (its ImageNet variant, and FDDA's).
        input: `unit` gives generated images mean 0 and deviation 1 in each channel, as normalised inputs have; `free`
            gives each of their values the moments that it has in distilled images (`calib.synthesis.distill`).
        temperature: of both softmaxes of the distillation.
        tracking: how ranges follow; see `calib.training.tracking`.
        averages: see `calib.ranges.averages`; `own` is tracked like every other.
        widen: factor on the tracked ranges. The papers have 1. Generated images, and batches of a few, have shorter
            tails than real ones have in number; where bits are many, a wider range costs less than it saves.
        norm: the student's batch norms: `frozen` statistics with gamma and beta trained, as in the papers, or `train`.
        precision: of generator and teacher; the student is float32.
    """

    epochs: int = Field(default=400, ge=1)
    steps: int = Field(default=200, ge=1)
    range_epochs: int = Field(default=4, ge=1)
    warmup_epochs: int = Field(default=4, ge=0)
    learning_rate: float = Field(default=1e-4, gt=0.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    generator_learning_rate: float = Field(default=1e-3, gt=0.0)
    milestones: Milestones = MILESTONES
    conditioning: Conditioning = "embedding"
    input: Input = "unit"
    temperature: float = Field(default=20.0, gt=0.0)
    tracking: Tracking = "ema_corrected"
    averages: Averages = "input"
    widen: float = Field(default=1.0, ge=1.0, le=4.0)
    norm: NormMode = "frozen"
    precision: Precision = "auto"


class GenerativeMethod(Protocol):
    """What one paper asks of generator and student."""

    def generator_loss(self, generated: GeneratedBatch, trainer: GeneratorTrainer, epoch: int) -> Tensor:
        """The loss of a batch of random labels; may draw more from `trainer`."""
        ...

    def student_batch(self, generated: GeneratedBatch, trainer: GeneratorTrainer) -> tuple[Tensor, Tensor, Tensor]:
        """(images, labels, the float network's logits) that the student learns from."""
        ...

    def student_rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step of an epoch, both counted from 0."""
        ...

    def state(self) -> dict[str, Any]:
        """What the paper's own random draws depend on."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        ...


class GenerativeTraining:
    """A `calib.training.finetune.Training` of generator and student.

    Args:
        distillation: what an image's divergence from the float network counts beside its cross entropy.
    """

    def __init__(
        self, calibration: Calibration, parameters: GenerativeParameters, method: GenerativeMethod, distillation: float,
    ) -> None:
        self.parameters, self.method, self.distillation = parameters, method, distillation
        self.trainer = make_generator_trainer(
            calibration, parameters.conditioning, parameters.input, calibration.recipe.images.batch_size,
            parameters.generator_learning_rate, parameters.precision,
        )
        self.student = Student(
            calibration, lambda quantizer, _: MinMaxWeights(quantizer.spec),
            lambda quantizer, _: TrackedRange(quantizer.spec, parameters.tracking, parameters.widen), parameters.norm,
        )
        if parameters.averages == "input":
            self._take_ranges(averaged_inputs(calibration.graph, calibration.target))
        self.optimiser = torch.optim.SGD(
            self.student.parameters(), lr=parameters.learning_rate, momentum=0.9, nesterov=True,
            weight_decay=parameters.weight_decay,
        )
        self._epoch = self._step = 0

    def _take_ranges(self, sources: Mapping[Quantizer, Quantizer]) -> None:
        for quantizer, source in sources.items():
            site = self.student.activation(quantizer)
            ranged = self.student.activation(source)
            if isinstance(site, TrackedRange) and isinstance(ranged, TrackedRange | FixedGrid):
                site.take_from(ranged)

    def begin(self, epoch: int) -> None:
        """Rates and ranges of this epoch."""
        self._epoch, self._step = epoch, 0
        factor = milestone_factor(epoch, self.parameters.epochs, self.parameters.milestones)
        set_rate(self.trainer.optimiser, self.parameters.generator_learning_rate * factor)
        self.student.train(self._trains)
        if not self._ranges_follow:
            for site in self.student.sites.values():
                if isinstance(site, TrackedRange):
                    site.close()

    @property
    def _ranges_follow(self) -> bool:
        return self._epoch < self.parameters.range_epochs

    @property
    def _trains(self) -> bool:
        return self._epoch >= self.parameters.warmup_epochs

    def step(self) -> dict[str, float]:
        """One step of the generator and, where its time has come, one of the student."""
        generated = self.trainer.draw()
        measured = self.trainer.learn(
            generated, lambda: self.method.generator_loss(generated, self.trainer, self._epoch)
        )
        if self._trains:
            measured |= self._learn(generated)
        elif self._ranges_follow:
            with torch.no_grad():
                self.student(generated.images.detach())
        self._step += 1
        return measured

    def _learn(self, generated: GeneratedBatch) -> dict[str, float]:
        images, labels, teacher = self.method.student_batch(generated, self.trainer)
        logits = self.student(images)
        loss = student_loss(logits, labels, teacher, self.distillation, self.parameters.temperature)
        set_rate(self.optimiser, self.method.student_rate(self._epoch, self._step))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        agreed = share_right(logits, teacher.argmax(1))
        return {"student": float(loss.detach()), "agreed": agreed}

    def end(self, epoch: int) -> dict[str, float]:
        """Nothing beside the averages."""
        return {}

    def state(self) -> dict[str, Any]:
        """Generator, student, both optimisers, and where the random numbers are."""
        return {
            **self.trainer.state(), "student": self.student.state_dict(), "sgd": self.optimiser.state_dict(),
            "method": self.method.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.trainer.restore(state)
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["sgd"])
        self.method.restore(state["method"])


def run(
    calibration: Calibration, parameters: GenerativeParameters, method: GenerativeMethod, distillation: float
) -> None:
    """Train, write the student into the graph, and keep some of the images for people to look at."""
    training = GenerativeTraining(calibration, parameters, method, distillation)
    train(calibration, training, parameters.epochs, parameters.steps)
    images, _, obedience = training.trainer.collect(SHOWN)
    calibration.findings.images = images.cpu()
    calibration.findings.notes.append(obedience)
    training.student.settle()


def generator_cost(parameters: GenerativeParameters, facts: CostFacts) -> Cost:
    """All steps of the generator, of one batch each, through itself and the float network."""
    step = image_cost(facts.shape) * TRAINED + facts.network * STEERED
    first = moments_cost(facts) if parameters.input == "free" else Cost()
    return first + step * (parameters.epochs * parameters.steps * facts.batch)


def student_cost(parameters: GenerativeParameters, facts: CostFacts, images: int) -> Cost:
    """All steps of the student, with so many images a step; first it only looks on, for its ranges."""
    looks = min(parameters.range_epochs, parameters.warmup_epochs, parameters.epochs)
    trains = max(0, parameters.epochs - parameters.warmup_epochs)
    return facts.network * (parameters.steps * (looks * facts.batch + TRAINED * trains * images))
