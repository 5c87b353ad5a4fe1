"""What the stages of a build answer to the same samples: accuracies, agreement and distance, counted batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

Kind = Literal["classes", "maps", "values"]
KINDS: dict[Kind, str] = {
    "classes": "one choice of a class for each sample",
    "maps": "a choice of a class for each position",
    "values": "one value, no choice between classes",
}


def output_kind(shape: Sequence[int | None]) -> Kind:
    """What an output of this shape is: [N, C], [N, C, positions ...], or [N, 1, ...]. Classes lie on axis 1."""
    if shape[1] == 1:
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


class Answers:
    """The answers of every stage, batch by batch; `float` and `artifact` are among them.

    Attributes:
        kind, shape: of the outputs; of the first batch.
        samples: seen.
        right: by stage, how many labelled samples it names right; labels count where outputs are `classes`.
        agreement: by stage, at how many positions it chooses as the artifact does.
        labels, chosen: how often each label occurs, how often the float network chooses each class.
        pairs: how often the float network chooses class c for label l, by (l, c).
        lost, won: samples that the float network names right and the artifact wrong, and the reverse.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.kind: Kind | None = None
        self.shape: tuple[int, ...] = ()
        self.samples = 0
        self.right = {name: Share() for name in stages}
        self.agreement = {name: Share() for name in stages if name != "artifact"}
        self.labels: Counter[int] = Counter()
        self.chosen: Counter[int] = Counter()
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.lost = self.won = 0
        self.has_labels = False
        self._alike = _Moments()  # of each sample's share of positions where float and artifact agree
        self._float = _Moments()  # of the float outputs
        self._noise = {name: 0.0 for name in stages if name != "float"}

    def add(self, results: Mapping[str, np.ndarray], labels: Tensor | None) -> None:
        """Count one batch.

        Args:
            results: float32 outputs [N, ...] by stage.
            labels: int64 [N] or None.
        """
        reference = results["float"]
        if self.kind is None:
            self.kind, self.shape = output_kind(reference.shape), tuple(reference.shape[1:])
        self.samples += len(reference)
        self._measure(results)
        self.has_labels |= labels is not None
        chosen = {name: choices(logits) for name, logits in results.items()}
        if chosen["float"] is None:
            return
        for name, share in self.agreement.items():
            share.add(chosen[name] == chosen["artifact"])
        alike = (chosen["float"] == chosen["artifact"]).reshape(len(reference), -1)
        self._alike.add(alike.mean(axis=1))
        self.chosen.update(dict(zip(*_counted(chosen["float"]), strict=True)))
        if labels is not None and self.kind == "classes" and len(labels) == len(reference):
            self._name(chosen, labels.numpy())

    @property
    def accuracy(self) -> dict[str, float | None]:
        """Top-1 in percent by stage; None without labels that apply."""
        return {name: share.percent for name, share in self.right.items()}

    @property
    def chance(self) -> float | None:
        """The share of the commonest label: what a network reaches that never looks at its input. None without any."""
        return max(self.labels.values()) / self.labels.total() if self.labels else None

    @property
    def agreement_error(self) -> float:
        """Standard error of the agreement of float and artifact, as a share; positions of one sample go together."""
        return math.sqrt(self._alike.variance / max(1, self._alike.count))

    @property
    def unexplained(self) -> float | None:
        """Mean square of artifact - float, as a share of the variance of the float outputs; None where they are equal
        for all samples.
        """
        spread = self._float.variance * self._float.count
        # Below the rounding of float32 there is no spread.
        constant = spread <= 1e-12 * self._float.squares
        return None if constant else self._noise["artifact"] / spread

    @property
    def signal_to_noise(self) -> dict[str, float | None]:
        """Decibel by stage: power of the float outputs over that of the difference to them; None where either is 0."""
        signal = self._float.squares
        return {
            name: round(10 * math.log10(signal / noise), 2) if 0 < noise < math.inf and 0 < signal < math.inf else None
            for name, noise in self._noise.items()
        }

    def _measure(self, results: Mapping[str, np.ndarray]) -> None:
        reference = results["float"].astype(np.float64)
        self._float.add(reference)
        for name in self._noise:
            self._noise[name] += float(np.square(results[name].astype(np.float64) - reference).sum())

    def _name(self, chosen: Mapping[str, np.ndarray | None], labels: np.ndarray) -> None:
        named = {name: choice == labels for name, choice in chosen.items()}
        for name, share in self.right.items():
            share.add(named[name])
        self.lost += int(np.count_nonzero(named["float"] & ~named["artifact"]))
        self.won += int(np.count_nonzero(~named["float"] & named["artifact"]))
        self.labels.update(dict(zip(*_counted(labels), strict=True)))
        self.pairs.update(zip(labels.tolist(), chosen["float"].tolist(), strict=True))


@dataclass
class _Moments:
    """Sums of numbers."""

    count: int = 0
    total: float = 0.0
    squares: float = field(default=0.0)

    def add(self, values: np.ndarray) -> None:
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float(np.square(values).sum())

    @property
    def variance(self) -> float:
        return max(0.0, self.squares / self.count - (self.total / self.count) ** 2) if self.count else 0.0


def _counted(values: np.ndarray) -> tuple[list[int], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()
