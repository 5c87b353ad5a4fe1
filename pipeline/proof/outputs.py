"""What a network's outputs are, and which class they choose at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["classes", "maps", "values"]
KINDS: dict[Kind, str] = {
    "classes": "one choice of a class for each sample",
    "maps": "a choice of a class for each position",
    "values": "one value, no choice between classes",
}


def output_kind(shape: Sequence[int | None]) -> Kind:
    """What an output of this shape is: [N, C], [N, C, positions ...], or [N, 1, ...]. Classes lie on axis 1."""
    if len(shape) < 2 or shape[1] == 1:
        return "values"
    return "classes" if len(shape) == 2 else "maps"


@dataclass
class Share:
    """A share of what was counted."""

    hits: int = 0
    seen: int = 0

    def add(self, same: np.ndarray) -> None:
        """Count truth values of any shape."""
        self.hits += int(np.count_nonzero(same))
        self.seen += same.size

    @property
    def percent(self) -> float | None:
        """With four decimals; None where nothing was counted."""
        return round(100.0 * self.hits / self.seen, 4) if self.seen else None


def choices(logits: np.ndarray) -> np.ndarray | None:
    """The class chosen at every position, [N] or [N, positions ...]; None where there is no choice."""
    return None if output_kind(logits.shape) == "values" else logits.argmax(axis=1)


def same_choice(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether two outputs [N, C, ...] choose alike, at every position; empty where there is no choice."""
    chosen, others = choices(one), choices(other)
    return np.zeros(0, bool) if chosen is None or others is None else chosen == others
