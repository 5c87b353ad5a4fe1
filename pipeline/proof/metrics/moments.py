"""Sums of numbers and of their squares, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Sums of `count` numbers."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count numbers in float64, of any shape."""
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float(np.square(values).sum())

    @property
    def variance(self) -> float:
        """0 where nothing was counted."""
        return max(0.0, self.squares / self.count - (self.total / self.count) ** 2) if self.count else 0.0
