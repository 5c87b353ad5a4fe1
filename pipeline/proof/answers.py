"""What the stages of a build answer to the same samples, batch by batch: every metric, and what a verdict asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from isobit.pipeline.proof.distances import Distances, OutputDistance
from isobit.pipeline.proof.measures import Guarded, Measures
from isobit.pipeline.proof.metrics import METRICS, Measurement, Metric, Outputs, first_output
from isobit.pipeline.proof.metrics.agreement import Agreement
from isobit.pipeline.proof.metrics.moments import Moments
from isobit.pipeline.proof.metrics.top1 import Top1
from isobit.pipeline.proof.outputs import Kind, Share, choices
from isobit.pipeline.samples.arrays import Targets, are_labels
from isobit.pipeline.samples.coco import box_classes

INTERVAL = 1.96  # standard errors to either side of a stated loss


@dataclass(frozen=True)
class Measured:
    """What a metric says of a build; `values` by stage, None where it says nothing.

    Args:
        against: whose answers stood for the targets, `float`; an empty string where there were targets.
        remarks: by stage, what else there is to know of what was counted.
    """

    title: str
    unit: str
    higher_is_better: bool
    values: Mapping[str, float | None]
    against: str = ""
    remarks: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Its part of `parity.json`; `against` and `remarks` where there is something to say."""
        return {key: value for key, value in asdict(self).items() if key not in ("against", "remarks") or value}

    @property
    def text(self) -> str:
        """In one line: `mean intersection over union, %: float 71.2, artifact 70.9`."""
        known = [f"{stage} {value:.6g}" for stage, value in self.values.items() if value is not None]
        more = "".join(f"; {stage}: {remark}" for stage, remark in self.remarks.items())
        return f"{self.title}{f', {self.unit}' if self.unit else ''}: {', '.join(known) or 'not measured'}{more}"


class Answers:
    """The answers of every stage, batch by batch; `float` and `artifact` are among them.

    Labels and choices are of the first output.

    Attributes:
        kind, shape: of the first output; of the first batch.
        samples: seen.
        labels, chosen: how often each label occurs, how often the float network chooses each class; labels count where
            outputs are `classes`.
        pairs: how often the float network chooses class c for label l, by (l, c).
        lost, won: samples that the float network names right and the artifact wrong, and the reverse.
        changed: places, from 0, of the samples to which the artifact gives another class than float, where outputs are
            `classes`.
        has_labels, has_boxes: there are targets; they are boxes.
        measures: what is measured beside.
    """

    def __init__(self, stages: Sequence[str], measures: Measures | None = None) -> None:
        self.kind: Kind | None = None
        self.shape: tuple[int, ...] = ()
        self.samples = 0
        self.labels: Counter[int] = Counter()
        self.chosen: Counter[int] = Counter()
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.lost = self.won = 0
        self.changed: list[int] = []
        self.has_labels = self.has_boxes = False
        self.measures = measures or Measures()
        self._stages = tuple(stages)
        self._alike = Moments()  # of each sample's share of positions where float and artifact agree
        self._top1 = {stage: Top1() for stage in stages}
        self._agreement = {stage: Agreement() for stage in stages if stage != "artifact"}
        self._distances = Distances(stages)
        self._counted: dict[str, Mapping[str, Guarded]] = {
            metric.name: {stage: Guarded(metric) for stage in stages if stage != metric.against}
            for metric in self.measures.metrics if metric.name not in self._always or metric.against == "target"
        }
        self._measured: dict[str, Measured] | None = None

    @property
    def _always(self) -> dict[str, Mapping[str, Measurement]]:
        """What is counted whether it was named or not, by the name of the metric that makes it."""
        counted: tuple[Mapping[str, Measurement], ...] = (
            self._top1, self._agreement, self._distances.noise, self._distances.cosines)
        return {metric.name: by_stage for by_stage in counted for metric in METRICS.loaded().values()
                if metric.published and any(type(one) is metric.make for one in by_stage.values())}

    def add(self, results: Mapping[str, Outputs], target: Targets | None) -> None:
        """Count one batch.

        Args:
            results: by stage, float32 arrays [N, ...] by output name.
            target: what is known of the samples: int64 [N] are labels; None for nothing.
        """
        first = {stage: first_output(outputs) for stage, outputs in results.items()}
        reference = first["float"]
        kind, self._measured = self.see(reference, target), None
        before, self.samples = self.samples, self.samples + len(reference)
        self.has_labels |= target is not None
        self.has_boxes |= box_classes(target) is not None
        self._distances.add(results)
        self._measure(results, target)
        chosen = {stage: choice for stage, logits in first.items() if (choice := choices(logits)) is not None}
        if kind == "values" or not chosen:
            return
        for stage, agreement in self._agreement.items():
            agreement.update(results[stage], results["artifact"])
        alike = (chosen["float"] == chosen["artifact"]).reshape(len(reference), -1)
        self._alike.add(alike.mean(axis=1))
        if kind == "classes":
            self.changed += (before + np.flatnonzero(~alike.all(axis=1))).tolist()
        self.chosen.update(dict(zip(*_counted(chosen["float"]), strict=True)))
        if kind == "classes" and self.measures.judge_labels and are_labels(target) and len(target) == len(reference):
            named = target.numpy()
            for stage, top1 in self._top1.items():
                top1.update(results[stage], named)
            self._name(chosen, named)

    def see(self, first: np.ndarray, target: Targets | None) -> Kind:
        """What the first output [N, ...] is, as the first batch says that is seen."""
        if self.kind is None:
            self.kind, self.shape = self.measures.kind_of(first.shape, target), tuple(first.shape[1:])
        return self.kind

    @property
    def outputs(self) -> dict[str, OutputDistance]:
        """The distance to float, by output name."""
        return self._distances.outputs

    @property
    def right(self) -> dict[str, Share]:
        """By stage, how many labelled samples it names right; labels count where outputs are `classes`."""
        return {stage: top1.share for stage, top1 in self._top1.items()}

    @property
    def agreement(self) -> dict[str, Share]:
        """By stage, at how many positions it chooses as the artifact does."""
        return {stage: agreement.share for stage, agreement in self._agreement.items()}

    @property
    def accuracy(self) -> dict[str, float | None]:
        """Top-1 in percent by stage; None without labels that apply."""
        return {stage: top1.compute() for stage, top1 in self._top1.items()}

    @property
    def chance(self) -> float | None:
        """The share of the commonest label: what a network reaches that never looks at its input. None without any."""
        return max(self.labels.values()) / self.labels.total() if self.labels else None

    @property
    def agreement_error(self) -> float:
        """Standard error of the agreement of float and artifact, as a share; positions of one sample go together."""
        return math.sqrt(self._alike.variance / max(1, self._alike.count))

    @property
    def margin(self) -> float:
        """Half of the interval around the top-1 points that are lost, by the samples that change sides; of labelled
        samples, of which there must be some.
        """
        return INTERVAL * 100 * math.sqrt(self.lost + self.won + 1) / self.labels.total()

    @property
    def signal_to_noise(self) -> dict[str, float | None]:
        """That of the first output; see `OutputDistance`."""
        first = next(iter(self.outputs.values()), None)
        return {} if first is None else first.signal_to_noise

    @property
    def held_metric(self) -> Metric | None:
        """The metric that was named and judges the build; None where top-1 on labels does, or nothing."""
        held = self.measures.held
        return None if held is None or (held.published and self.labels) else held

    @property
    def measured(self) -> dict[str, Measured]:
        """What the metrics say that were named, in their order."""
        if self._measured is None:  # of boxes it takes a while
            self._measured = {metric.name: self._said(metric, self._always | self._counted)
                              for metric in self.measures.metrics}
        return self._measured

    @property
    def all_measured(self) -> dict[str, Measured]:
        """The same, after the metrics that are always counted and say something."""
        always = self._always
        said = {name: self._said(METRICS.get(name), always) for name in always}
        known = {name: one for name, one in said.items() if any(value is not None for value in one.values.values())}
        return known | self.measured

    def _said(self, metric: Metric, counted: Mapping[str, Mapping[str, Measurement]]) -> Measured:
        of = counted[metric.name]
        by_float = bool(metric.against == "target" and metric.answers and not self.has_labels)
        title = f"{metric.title} against float's {metric.answers}" if by_float else metric.title
        remarks = {stage: said for stage, one in of.items() if isinstance(one, Guarded) and (said := one.remark())}
        return Measured(title, metric.unit, metric.higher_is_better,
                        {stage: of[stage].compute() if stage in of else None for stage in self._stages},
                        "float" if by_float else "", remarks)

    def _measure(self, results: Mapping[str, Outputs], target: Targets | None) -> None:
        asked = [metric for metric in self.measures.metrics if metric.name in self._counted]
        if not asked:
            return
        decoded = {stage: self.measures.decoded(results[stage]) for stage in self._stages}
        for metric in asked:
            given: Mapping[str, Any] = decoded if metric.decoded else results
            for stage, counted in self._counted[metric.name].items():
                against = counted.yardstick(target, given["float"]) if metric.against == "target" else \
                    given[metric.against]
                if against is not None:
                    counted.update(given[stage], against)

    def _name(self, chosen: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
        before, after = chosen["float"] == labels, chosen["artifact"] == labels
        self.lost += int(np.count_nonzero(before & ~after))
        self.won += int(np.count_nonzero(~before & after))
        self.labels.update(dict(zip(*_counted(labels), strict=True)))
        self.pairs.update(zip(labels.tolist(), chosen["float"].tolist(), strict=True))


def _counted(values: np.ndarray) -> tuple[list[int], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()
