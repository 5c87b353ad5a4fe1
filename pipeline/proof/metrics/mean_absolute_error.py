"""Mean absolute error: how far a stage's values are from the targets, for networks that give numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import Outputs, as_array, first_output, metric


@metric("mean_absolute_error", "mean absolute error", higher_is_better=False)
class MeanAbsoluteError:
    """Attributes:
    total, count: of absolute differences.
    """

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs: Outputs, target: Any) -> None:
        """Count one batch.

        Args:
            outputs: of which the first is compared.
            target: numbers of the same shape; axes of length 1 may be left out.

        Raises:
            InputError: the targets are of another shape.
        """
        given, wanted = first_output(outputs), as_array(target, "mean_absolute_error").astype(np.float64)
        if [size for size in wanted.shape[1:] if size != 1] != [size for size in given.shape[1:] if size != 1] or \
                len(wanted) != len(given):
            raise InputError(f"targets of shape {list(wanted.shape)} are compared with an output of shape "
                             f"{list(given.shape)}", field="evaluation", allowed="targets of the output's shape")
        self.total += float(np.abs(given.astype(np.float64) - wanted.reshape(given.shape)).sum())
        self.count += given.size

    def compute(self) -> float | None:
        """In the unit of the output; None where nothing was counted or a value is not finite."""
        return float(f"{self.total / self.count:.6g}") if self.count and np.isfinite(self.total) else None
