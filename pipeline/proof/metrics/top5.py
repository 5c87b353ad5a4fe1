"""Top-5 accuracy: for how many samples the label is among a stage's five likeliest classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import Outputs, class_output, metric, whole_numbers
from isobit.pipeline.proof.outputs import Share

FIVE = 5


@metric("top5", "top-5 accuracy", unit="%", chooses=True)
class Top5:
    """Attributes:
    share: of samples whose label is among the five; all of them where there are no more classes.
    """

    def __init__(self) -> None:
        self.share = Share()

    def update(self, outputs: Outputs, target: Any) -> None:
        """Count values that are larger than the label's; of equal ones the lower class counts as larger.

        Args:
            outputs: of which the first is [N, classes].
            target: labels [N].
        """
        given = class_output(outputs, "top5")
        if given.ndim != 2:
            raise InputError("the metric 'top5' is for one choice a sample, and the first output chooses at positions",
                             field="options.metrics", allowed="outputs [N, classes]")
        labels = whole_numbers(target, given.shape[:1], "top5")[:, None]
        inside = (labels >= 0) & (labels < given.shape[1])
        own = np.take_along_axis(given, np.where(inside, labels, 0), axis=1)
        before = (given > own) | ((given == own) & (np.arange(given.shape[1]) < labels))
        self.share.add(inside[:, 0] & (before.sum(axis=1) < FIVE) & np.isfinite(own[:, 0]))

    def compute(self) -> float | None:
        """In percent."""
        return self.share.percent
