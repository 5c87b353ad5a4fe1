"""Images of GDFQ's conditional generator, trained alone against the float network; with the labels that were ordered.

Generative Low-bitwidth Data Free Quantization (Xu et al., ECCV 2020), arXiv 2003.03603, without its student: the set is
drawn when the generator has learned, so that any method can be calibrated on it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from calib.context import Calibration
from calib.distill import Input, moments_work
from calib.finetune import milestone_factor, set_rate, train
from calib.generator import Conditioning, gdfq_loss, image_work, make_forge
from calib.parameters import Parameters
from calib.precision import Precision
from calib.sources import maker
from calib.work import STEERED, TRAINED, Work, WorkFacts

STEPS = 100  # of the generator, between two lines of progress


class GeneratedParameters(Parameters):
    """Rates, batch and weights are those of GDFQ's code for CIFAR-100, which trains the generator for 80,000 steps.

    Args:
        iterations: of Adam, in hundreds.
        batch: images of one step.
        learning_rate: of Adam with betas (0.5, 0.999); a tenth at a quarter, half and three quarters of the iterations.
        conditioning: `embedding` or `norm`, see `calib.generator`.
        statistics_weight: of the batch-norm statistics beside the cross entropy.
        input: `unit` gives each channel mean 0 and deviation 1 over a batch, as normalised inputs have them; `free`
            gives each value those that it has in distilled images, because of inputs that are not normalised the batch
            norms alone know the scale (`calib.distill.input_moments`).
        precision: of generator and float network; statistics, losses and images are float32.
    """

    iterations: int = Field(default=4000, ge=STEPS, multiple_of=STEPS)
    batch: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    conditioning: Conditioning = "embedding"
    statistics_weight: float = Field(default=0.1, ge=0.0)
    input: Input = "unit"
    precision: Precision = "auto"


class GeneratedCourse:
    """A `calib.finetune.Course`: the generator alone."""

    def __init__(self, calibration: Calibration, parameters: GeneratedParameters, epochs: int) -> None:
        self._parameters, self._epochs = parameters, epochs
        self.forge = make_forge(
            calibration, parameters.conditioning, parameters.input, parameters.batch, parameters.learning_rate,
            parameters.precision,
        )

    def begin(self, epoch: int) -> None:
        """The learning rate of this share of the training."""
        set_rate(self.forge.optimiser, self._parameters.learning_rate * milestone_factor(epoch, self._epochs))

    def step(self) -> dict[str, float]:
        """One step of the generator."""
        judged = self.forge.draw()
        weight = self._parameters.statistics_weight
        return self.forge.learn(judged, lambda: gdfq_loss(judged, self.forge.running, weight))

    def end(self, epoch: int) -> dict[str, float]:
        """Nothing beside the averages."""
        return {}

    def state(self) -> dict[str, Any]:
        """The forge's."""
        return self.forge.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.forge.restore(state)


def _work(parameters: GeneratedParameters, facts: WorkFacts) -> Work:
    step = (image_work(facts.shape) * TRAINED + facts.network * STEERED) * parameters.batch
    first = moments_work(facts) if parameters.input == "free" else Work()
    return first + step * parameters.iterations


@maker("generated", GeneratedParameters, gives={"images", "labels"}, work=_work)
def generated(calibration: Calibration, parameters: GeneratedParameters) -> tuple[Tensor, Tensor]:
    """`count` images and their labels, drawn when the training is over."""
    epochs = parameters.iterations // STEPS
    course = GeneratedCourse(calibration, parameters, epochs)
    train(calibration, course, epochs, STEPS)
    images, labels, obedience = course.forge.collect(calibration.recipe.images.count)
    calibration.findings.notes.append(obedience)
    return images, labels
