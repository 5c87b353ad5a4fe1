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
    "values": "numbers, no choice between classes",
}
IGNORED = 255  # the label of a position without one


def output_kind(shape: Sequence[int | None], dense: bool = False) -> Kind:
    """What an output of this shape is; classes lie on axis 1.

    A shape says little: [N, 21, 64, 64] may be a map of classes, a heat map or features, [N, 4420, 4] are boxes. So
    [N, C] alone is a choice by itself, and [N, C, positions ...] one where it is known that classes are meant.

    Args:
        dense: a metric that was named, or labels of the positions, say that classes lie on axis 1.
    """
    if len(shape) < 2 or shape[1] == 1 or (len(shape) > 2 and not dense):
        return "values"
    return "classes" if len(shape) == 2 else "maps"


def labels_positions(labels: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether these are labels of every position of an output [N, C, positions ...]: whole numbers below C, or 255."""
    if len(shape) < 3 or labels.shape != (shape[0], *shape[2:]) or not np.issubdtype(labels.dtype, np.integer):
        return False
    return bool(((labels >= 0) & ((labels < shape[1]) | (labels == IGNORED))).all())


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
    """The index of the largest value along axis 1, [N] or [N, positions ...]; None where there is but one."""
    return None if output_kind(logits.shape, dense=True) == "values" else logits.argmax(axis=1)


def same_choice(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether two outputs [N, C, ...] choose alike, at every position; empty where there is no choice."""
    chosen, others = choices(one), choices(other)
    return np.zeros(0, bool) if chosen is None or others is None else chosen == others
