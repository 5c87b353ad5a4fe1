"""GDFQ: Generative Low-bitwidth Data Free Quantization.

Xu, Li, Zhuang, Liu, Cao, Liang, Tan; ECCV 2020, arXiv 2003.03603. No image is read: a generator learns to make images
that the float network recognises and whose batch-norm statistics are those of the training set, and in turns the
quantized network is trained on them to answer like the float one. With G the generator, T the float network, S the
student, z normal, y uniform labels and x = G(z, y):

    L_G = CE(T(x), y) + 0.1 L_BNS        L_S = CE(S(x), y) + alpha tau^2 / classes * KL(T(x)/tau || S(x)/tau)

One Adam step on G and one SGD step on S in turns, S on the images made before G's step. Weights are quantized between
the extremes of each output channel at that step, activations between tracked extremes (`method.tracking`), which follow
for `range_epochs` epochs and then stay. The gradient passes every quantizer as if it were not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.synthesis.generative import GenerativeParameters, generator_cost, run, student_cost
from isobit.calib.synthesis.generator import GeneratedBatch, GeneratorTrainer, gdfq_loss
from isobit.calib.training.finetune import milestone_factor
from isobit.pipeline.stages import UnitLog


class GdfqParameters(GenerativeParameters):
    """Defaults are those of the authors' code for CIFAR-100, but for `tracking`.

    Args:
        statistics_weight: of the batch-norm statistics in the generator's loss.
        distillation: alpha. The authors average the divergence over images *and classes*, so that alpha * T^2 counts
            T^2 / classes times an image's divergence: 40 for 10 classes, 0.4 for 1,000.
    """

    statistics_weight: float = Field(default=0.1, ge=0.0)
    distillation: float = Field(default=1.0, ge=0.0)


@dataclass(frozen=True)
class Gdfq:
    """A `calib.synthesis.generative.GenerativeMethod`."""

    parameters: GdfqParameters

    def generator_loss(self, generated: GeneratedBatch, trainer: GeneratorTrainer, epoch: int) -> Tensor:
        """CE(teacher(x), y) + 0.1 * L_BNS."""
        return gdfq_loss(generated, trainer.running, self.parameters.statistics_weight)

    def student_batch(self, generated: GeneratedBatch, trainer: GeneratorTrainer) -> tuple[Tensor, Tensor, Tensor]:
        """The generated images as they are, with the labels that were ordered."""
        return generated.images.detach(), generated.labels, generated.logits.detach()

    def student_rate(self, epoch: int, step: int) -> float:
        """A tenth at each milestone."""
        own = self.parameters
        return own.learning_rate * milestone_factor(epoch, own.epochs, own.milestones)

    def state(self) -> dict[str, Any]:
        """Nothing: all random numbers are the trainer's."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing."""


def divergence_weight(alpha: float, temperature: float, classes: int) -> float:
    """What the divergence of one image counts: alpha * T^2 / classes."""
    return alpha * temperature * temperature / classes


def _cost(parameters: GdfqParameters, facts: CostFacts) -> Cost:
    return generator_cost(parameters, facts) + student_cost(parameters, facts, facts.batch)


@method("gdfq", GdfqParameters, needs={"bn_statistics", "tail", "one_input"}, cost=_cost)
def gdfq(calibration: Calibration, parameters: GdfqParameters) -> tuple[UnitLog, ...]:
    """Train generator and student in turns; no unit is reconstructed, so there is no unit log."""
    weight = divergence_weight(parameters.distillation, parameters.temperature, calibration.classes)
    run(calibration, parameters, Gdfq(parameters), weight)
    return ()
