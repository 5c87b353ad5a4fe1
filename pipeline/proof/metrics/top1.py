"""Top-1 accuracy: how many labelled samples a stage names right."""

from __future__ import annotations

from typing import Any

from isobit.pipeline.proof.metrics import Outputs, class_output, metric, whole_numbers
from isobit.pipeline.proof.outputs import IGNORED, Share


@metric("top1", "top-1 accuracy", unit="%", chooses=True, published=True)
class Top1:
    """Attributes:
    share: of samples that are named right.
    """

    def __init__(self) -> None:
        self.share = Share()

    def update(self, outputs: Outputs, target: Any) -> None:
        """Compare the class of the largest value along axis 1 with the label, at every position of the first output.

        Args:
            outputs: of which the first is [N, classes], or [N, classes, positions ...].
            target: labels [N], or [N, positions ...]; positions that are `IGNORED` count for nothing.
        """
        chosen = class_output(outputs, "top1").argmax(axis=1)
        labels = whole_numbers(target, chosen.shape, "top1")
        right = chosen == labels
        self.share.add(right if chosen.ndim == 1 else right[labels != IGNORED])

    def compute(self) -> float | None:
        """In percent."""
        return self.share.percent
