"""ZeroQ's images: pixels that give every batch norm of the float network the statistics of its training.

ZeroQ: A Novel Zero Shot Quantization Framework (Cai et al., CVPR 2020), arXiv 2001.00281.
See `calib.synthesis.distill` for the loss and what differs from the authors' code. They make one batch; `count` images
are made here in as many batches as it takes, each from a start of its own and none knowing of another.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.parameters import Parameters
from isobit.calib.precision import Precision
from isobit.calib.sources import maker
from isobit.calib.synthesis.distill import Distillation, Input, Pixels, distillation_cost
from isobit.calib.synthesis.statistics import watched_network
from isobit.calib.training.finetune import train


class DistilledParameters(Parameters):
    """Defaults are those of the authors' code.

    Args:
        iterations: of Adam, a batch.
        learning_rate: of Adam, in units of the input.
        batch: images that are optimised together; the learning rate falls where their common loss rests.
        input: `unit` asks for mean 0 and deviation 1 in each channel of an image, as normalised inputs have them;
            `free` leaves that out, for inputs that are not normalised, such as audio features.
        precision: of the network's layers; pixels, statistics and loss are float32. In bfloat16 the loss ends as low.
    """

    iterations: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=0.5, gt=0.0)
    batch: int = Field(default=32, ge=1)
    input: Input = "unit"
    precision: Precision = "float32"


class DistilledTraining:
    """A `calib.training.finetune.Training`: one epoch a batch of images, one step a step of Adam on its pixels."""

    def __init__(self, calibration: Calibration, parameters: DistilledParameters) -> None:
        self._calibration, self._parameters = calibration, parameters
        self._how = Distillation(
            parameters.iterations, parameters.learning_rate, parameters.input == "unit", parameters.precision
        )
        self._watched = watched_network(calibration.graph, calibration.device, outputs=False)
        self._begun: Pixels | None = None
        self._last = float("nan")
        self.finished: list[Tensor] = []

    def begin(self, epoch: int) -> None:
        """A fresh start, which hangs on the recipe's seed and the batch's number."""
        made, calibration = self._calibration, self._parameters
        left = made.recipe.images.count - epoch * calibration.batch
        self._begun = Pixels(
            self._watched, made.shape, min(left, calibration.batch), made.seed(f"distilled {epoch}"), made.device,
            self._how,
        )

    @property
    def _pixels(self) -> Pixels:
        """What the batch that `begin` began holds."""
        if self._begun is None:
            raise RuntimeError("a step of a batch that has not begun")
        return self._begun

    def step(self) -> dict[str, float]:
        """One step; the loss is told at the end of the batch, because its average says nothing."""
        self._last = self._pixels.step()
        return {}

    def end(self, epoch: int) -> dict[str, float]:
        """The batch is finished."""
        self.finished.append(self._pixels.images.cpu())
        return {"loss": self._last}

    def state(self) -> dict[str, Any]:
        """The finished batches."""
        return {"batches": list(self.finished)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.finished = list(state["batches"])


def _cost(parameters: DistilledParameters, facts: CostFacts) -> Cost:
    return distillation_cost(facts, facts.wanted, parameters.iterations)


@maker("distilled", DistilledParameters, gives={"images"}, cost=_cost)
def distilled(calibration: Calibration, parameters: DistilledParameters) -> tuple[Tensor, None]:
    """`count` images in batches, without labels."""
    training = DistilledTraining(calibration, parameters)
    train(calibration, training, -(-calibration.recipe.images.count // parameters.batch), parameters.iterations)
    return torch.cat(training.finished), None
