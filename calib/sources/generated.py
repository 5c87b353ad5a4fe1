"""Images of GDFQ's conditional generator, trained alone against the float network; with the labels that were ordered.

Generative Low-bitwidth Data Free Quantization (Xu et al., ECCV 2020), arXiv 2003.03603, without its student: the set is
drawn when the generator has learned, so that any method can be calibrated on it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.cost import STEERED, TRAINED, Cost, CostFacts
from isobit.calib.parameters import Parameters
from isobit.calib.precision import Precision
from isobit.calib.sources import maker
from isobit.calib.synthesis.distill import Input, moments_cost
from isobit.calib.synthesis.generator import Conditioning, gdfq_loss, image_cost, make_generator_trainer
from isobit.calib.training.finetune import milestone_factor, set_rate, train

STEPS = 100  # of the generator, between two lines of progress


class GeneratedParameters(Parameters):
    """Rates, batch and weights are those of GDFQ's code for CIFAR-100, which trains the generator for 80,000 steps.

    Args:
        iterations: of Adam, in hundreds.
        batch: images of one step.
        learning_rate: of Adam with betas (0.5, 0.999); a tenth at a quarter, half and three quarters of the iterations.
        conditioning: `embedding` or `norm`, see `calib.synthesis.generator`.
        statistics_weight: of the batch-norm statistics beside the cross entropy.
        input: `unit` gives each channel mean 0 and deviation 1 over a batch, as normalised inputs have them; `free`
            gives each value those that it has in distilled images, because of inputs that are not normalised the batch
            norms alone know the scale (`calib.synthesis.distill.input_moments`).
        precision: of generator and float network; statistics, losses and images are float32.
    """

    iterations: int = Field(default=4000, ge=STEPS, multiple_of=STEPS)
    batch: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    conditioning: Conditioning = "embedding"
    statistics_weight: float = Field(default=0.1, ge=0.0)
    input: Input = "unit"
    precision: Precision = "auto"


class GeneratedTraining:
    """A `calib.training.finetune.Training`: the generator alone."""

    def __init__(self, calibration: Calibration, parameters: GeneratedParameters, epochs: int) -> None:
        self._parameters, self._epochs = parameters, epochs
        self.trainer = make_generator_trainer(
            calibration, parameters.conditioning, parameters.input, parameters.batch, parameters.learning_rate,
            parameters.precision,
        )

    def begin(self, epoch: int) -> None:
        """The learning rate of this share of the training."""
        set_rate(self.trainer.optimiser, self._parameters.learning_rate * milestone_factor(epoch, self._epochs))

    def step(self) -> dict[str, float]:
        """One step of the generator."""
        generated = self.trainer.draw()
        weight = self._parameters.statistics_weight
        return self.trainer.learn(generated, lambda: gdfq_loss(generated, self.trainer.running, weight))

    def end(self, epoch: int) -> dict[str, float]:
        """Nothing beside the averages."""
        return {}

    def state(self) -> dict[str, Any]:
        """The trainer's."""
        return self.trainer.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.trainer.restore(state)


def _cost(parameters: GeneratedParameters, facts: CostFacts) -> Cost:
    step = (image_cost(facts.shape) * TRAINED + facts.network * STEERED) * parameters.batch
    first = moments_cost(facts) if parameters.input == "free" else Cost()
    return first + step * parameters.iterations


@maker("generated", GeneratedParameters, gives={"images", "labels"}, cost=_cost)
def generated(calibration: Calibration, parameters: GeneratedParameters) -> tuple[Tensor, Tensor]:
    """`count` images and their labels, drawn when the training is over."""
    epochs = parameters.iterations // STEPS
    training = GeneratedTraining(calibration, parameters, epochs)
    train(calibration, training, epochs, STEPS)
    images, labels, obedience = training.trainer.collect(calibration.recipe.images.count)
    calibration.findings.notes.append(obedience)
    return images, labels
