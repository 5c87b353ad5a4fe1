"""What the stages of a build answer to the same samples, batch by batch: every metric, and what a verdict asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from isobit.pipeline.proof.metrics import Outputs, all_metrics
from isobit.pipeline.proof.metrics.agreement import Agreement
from isobit.pipeline.proof.metrics.signal_to_noise import SignalToNoise
from isobit.pipeline.proof.metrics.top1 import Top1
from isobit.pipeline.proof.moments import Moments
from isobit.pipeline.proof.outputs import Kind, Share, choices, output_kind


@dataclass(frozen=True)
class Measured:
    """What a metric without a place of its own says of a build; `values` by stage."""

    title: str
    values: Mapping[str, float | None]

    @property
    def text(self) -> str:
        """In one line: `peak signal to noise ratio, dB: calibrated 31.2, artifact 31.2`."""
        known = [f"{stage} {value:g}" for stage, value in self.values.items() if value is not None]
        return f"{self.title}: {', '.join(known)}"


class Answers:
    """The answers of every stage, batch by batch; `float` and `artifact` are among them.

    Attributes:
        kind, shape: of the outputs; of the first batch.
        samples: seen.
        labels, chosen: how often each label occurs, how often the float network chooses each class; labels count where
            outputs are `classes`.
        pairs: how often the float network chooses class c for label l, by (l, c).
        lost, won: samples that the float network names right and the artifact wrong, and the reverse.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.kind: Kind | None = None
        self.shape: tuple[int, ...] = ()
        self.samples = 0
        self.labels: Counter[int] = Counter()
        self.chosen: Counter[int] = Counter()
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.lost = self.won = 0
        self.has_labels = False
        self._alike = Moments()  # of each sample's share of positions where float and artifact agree
        self._top1, self._agreement, self._noise = Top1(stages), Agreement(stages), SignalToNoise(stages)
        own = {"top1": self._top1, "agreement": self._agreement, "signal_to_noise": self._noise}
        self._metrics = [(metric, own.get(metric.name) or metric.make(stages)) for metric in all_metrics()]

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
        self.has_labels |= labels is not None
        chosen = {name: choice for name, logits in results.items() if (choice := choices(logits)) is not None}
        named = labels.numpy() if labels is not None and len(labels) == len(reference) else None
        outputs = Outputs(self.kind, results, chosen, named)
        for metric, counter in self._metrics:
            if metric.applies(outputs):
                counter.add(outputs)
        if not chosen:
            return
        alike = (chosen["float"] == chosen["artifact"]).reshape(len(reference), -1)
        self._alike.add(alike.mean(axis=1))
        self.chosen.update(dict(zip(*_counted(chosen["float"]), strict=True)))
        if named is not None and self.kind == "classes":
            self._name(chosen, named)

    @property
    def right(self) -> dict[str, Share]:
        """By stage, how many labelled samples it names right; labels count where outputs are `classes`."""
        return self._top1.shares

    @property
    def agreement(self) -> dict[str, Share]:
        """By stage, at how many positions it chooses as the artifact does."""
        return self._agreement.shares

    @property
    def accuracy(self) -> dict[str, float | None]:
        """Top-1 in percent by stage; None without labels that apply."""
        return self._top1.values

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
        return self._noise.unexplained

    @property
    def signal_to_noise(self) -> dict[str, float | None]:
        """Decibel by stage: power of the float outputs over that of the difference to them; None where either is 0."""
        return self._noise.values

    @property
    def measured(self) -> dict[str, Measured]:
        """What further metrics say, by name; those alone that say anything."""
        said = {
            metric.name: Measured(metric.title, dict(counter.values))
            for metric, counter in self._metrics if not metric.published
        }
        return {name: of for name, of in said.items() if any(value is not None for value in of.values.values())}

    def _name(self, chosen: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
        before, after = chosen["float"] == labels, chosen["artifact"] == labels
        self.lost += int(np.count_nonzero(before & ~after))
        self.won += int(np.count_nonzero(~before & after))
        self.labels.update(dict(zip(*_counted(labels), strict=True)))
        self.pairs.update(zip(labels.tolist(), chosen["float"].tolist(), strict=True))


def _counted(values: np.ndarray) -> tuple[list[int], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()
