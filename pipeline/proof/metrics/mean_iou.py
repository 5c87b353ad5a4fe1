"""Mean IoU: of each class the positions that a stage and the label map share, over those that either has."""

from __future__ import annotations

from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import Outputs, class_output, metric, whole_numbers
from isobit.pipeline.proof.outputs import IGNORED


@metric("mean_iou", "mean intersection over union", unit="%", chooses=True, answers="classes")
class MeanIou:
    """Attributes:
    pairs: how often each label (row) was given each class (column); None before the first batch.
    """

    def __init__(self) -> None:
        self.pairs: np.ndarray | None = None

    def update(self, outputs: Outputs, target: Any) -> None:
        """Count one batch.

        Args:
            outputs: of which the first is [N, classes, positions ...].
            target: classes [N, positions ...]; 255 is not counted.

        Raises:
            InputError: the targets are of another shape, or name a class that the network has not.
        """
        given = class_output(outputs, "mean_iou")
        classes, chosen = given.shape[1], given.argmax(axis=1)
        labels = whole_numbers(target, chosen.shape, "mean_iou")
        counted = labels != IGNORED
        if (wrong := labels[counted & ((labels < 0) | (labels >= classes))]).size:
            raise InputError(
                f"the targets hold the class {wrong[0]}, and the network has {classes}", field="evaluation",
                allowed=f"0 to {classes - 1}, and {IGNORED} for positions without a label",
            )
        found = np.bincount(labels[counted] * classes + chosen[counted], minlength=classes**2)
        self.pairs = found.reshape(classes, classes) + (0 if self.pairs is None else self.pairs)

    def answer(self, outputs: Outputs) -> np.ndarray:
        """The class that is chosen at each position."""
        return class_output(outputs, "mean_iou").argmax(axis=1)

    def compute(self) -> float | None:
        """In percent, a mean over the classes that either has somewhere; None where there are none."""
        if self.pairs is None:
            return None
        shared = self.pairs.diagonal()
        either = self.pairs.sum(axis=0) + self.pairs.sum(axis=1) - shared
        return round(100 * float((shared[either > 0] / either[either > 0]).mean()), 4) if either.any() else None
