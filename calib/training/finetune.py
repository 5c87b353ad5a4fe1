"""Training of the whole quantized network: epochs, progress, checkpoints, and the loss of teacher and labels.

What one step does is a `Training`: GDFQ and FDDA train a generator beside the student, DMBQ reads labelled images. The
engine walks over the epochs, reports them, and keeps the state of the training so that an interrupted training goes on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from isobit.calib.context import Calibration
from isobit.calib.reconstruction.losses import prediction_loss
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.stages import EpochLog

SAVE_EVERY = 30.0  # seconds between two checkpoints; a generator of 40 million parameters takes a second to write
# Where rates fall to a tenth; YAML has lists, not tuples.
Milestones = Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(strict=False)]
MILESTONES = (0.25, 0.5, 0.75)
DECAY = 0.1


class Training(Protocol):
    """One method's training."""

    def begin(self, epoch: int) -> None:
        """Epoch `epoch`, from 0, starts: rates, what is frozen, what is trained."""
        ...

    def step(self) -> dict[str, float]:
        """One step; returns what is to be reported, which the engine averages over the epoch."""
        ...

    def end(self, epoch: int) -> dict[str, float]:
        """The epoch is over; returns what is to be reported beside the averages."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the steps ahead depend on: tensors, numbers, strings, lists and dicts."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        ...


def train(
    calibration: Calibration, training: Training, epochs: int, steps: int, rate: str = "method.learning_rate",
    total: int | None = None, settings: str = "",
) -> None:
    """Run `training` for `epochs` epochs of `steps` steps, from its last checkpoint where there is one.

    Args:
        rate: field of the recipe that an error advises to lower.
        total: steps of all epochs, where the last one is shorter; None where it is not.
        settings: what it depends on beside the checkpoints' key.

    Raises:
        CalibrationError: a loss is not finite; names the epoch.
    """
    store, logs, progress = calibration.checkpoints, calibration.findings.epochs, calibration.progress
    progress.training(epochs, steps)
    resumed = store if calibration.resume else None
    kept = calibration.ranks.first(lambda: None if resumed is None else resumed.load_training(settings))
    if kept is not None:
        state, done = kept
        training.restore(state)
        for log in done:
            logs.append(log)
            progress.epoch(log)
    saved = time.monotonic()
    for epoch in range(len(logs), epochs):
        left = epochs * steps if total is None else total - epoch * steps
        logs.append(_epoch(calibration, training, epoch, min(steps, left), rate))
        progress.epoch(logs[-1])
        last = epoch + 1 == epochs
        if store is not None and calibration.ranks.leads and (last or time.monotonic() - saved >= SAVE_EVERY):
            store.save_training(training.state(), logs, settings)
            saved = time.monotonic()


def _epoch(calibration: Calibration, training: Training, epoch: int, steps: int, rate: str) -> EpochLog:
    began, totals = time.perf_counter(), defaultdict(float)
    training.begin(epoch)
    for _ in range(steps):
        for name, value in training.step().items():
            totals[name] += value / steps
        calibration.progress.step(1)
    measured = {**totals, **training.end(epoch)}
    wrong = [name for name, value in measured.items() if value != value or abs(value) == float("inf")]
    if wrong:
        raise CalibrationError(
            f"'{wrong[0]}' is not finite after epoch {epoch + 1}", where="training",
            hint=f"lower {rate}", field=f"recipe.{rate}",
        )
    return EpochLog(epoch + 1, steps, measured, time.perf_counter() - began)


def milestone_factor(epoch: int, epochs: int, milestones: Sequence[float] = MILESTONES) -> float:
    """A tenth at each of `milestones`, shares of the epochs: 100, 200, 300 of the papers' 400."""
    return DECAY ** sum(epoch >= round(share * epochs) for share in milestones)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter of `optimiser` the learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def student_loss(logits: Tensor, labels: Tensor, teacher: Tensor, weight: float, temperature: float) -> Tensor:
    """CE(student, labels) + weight * KL(softmax(teacher / T) || softmax(student / T)).

    The divergence is summed over classes and averaged over images: GDFQ's code averages over classes too, which is a
    smaller `weight`.

    Args:
        logits, teacher: [N, classes]; no gradient goes into `teacher`.
    """
    return F.cross_entropy(logits, labels) + weight * prediction_loss(logits, teacher.detach(), temperature)


def share_right(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return float((logits.detach().argmax(1) == labels).float().mean())
