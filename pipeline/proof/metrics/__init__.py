"""What is measured of the outputs of every stage, beside the codes. One metric, one file.

`@metric("name", "title", {"classes"})` registers a class: it is made from the names of the stages, counts batch by
batch, and says a number for each stage. Where the outputs are of another kind, or labels are needed and there are none,
it sees nothing and says None. `parity.json` has it under `metrics`; the screen and the report show it in a line.

Three came before there were others and have a field of their own in `parity.json`: `top1`, `agreement` and
`signal_to_noise`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.outputs import Kind
from isobit.pipeline.registry import Registry, discover


@dataclass(frozen=True)
class Outputs:
    """One batch of N samples.

    Args:
        kind: what the outputs are.
        results: float32 outputs [N, C, ...] by stage; `float` and `artifact` are among them.
        chosen: the class at every position by stage, int64 [N] or [N, positions ...]; empty for the kind `values`.
        labels: int64 [N, ...], or None.
    """

    kind: Kind
    results: Mapping[str, np.ndarray]
    chosen: Mapping[str, np.ndarray]
    labels: np.ndarray | None


class Measurement(Protocol):
    """A metric at work on one build."""

    def add(self, outputs: Outputs) -> None:
        """Count one batch, of a kind that the metric is for."""
        ...

    @property
    def values(self) -> Mapping[str, float | None]:
        """By stage, in their order; None where it cannot be said."""
        ...


M = TypeVar("M", bound=Callable[[Sequence[str]], Measurement])


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Args:
        title: what the numbers are, with their unit, for people: `peak signal to noise ratio, dB`.
        kinds: of outputs that it is for.
        make: makes one from the names of the stages.
        labels: whether it needs them.
        published: it has a field of its own in `parity.json`, and its own place on the screen and in the report.
    """

    name: str
    title: str
    kinds: Set[Kind]
    make: Callable[[Sequence[str]], Measurement]
    labels: bool = False
    published: bool = False

    def applies(self, outputs: Outputs) -> bool:
        """Whether it can count this batch."""
        return outputs.kind in self.kinds and (outputs.labels is not None or not self.labels)


METRICS: Registry[Metric] = Registry("metric", InputError, "isobit.metrics")


def metric(
    name: str, title: str, kinds: Set[Kind], labels: bool = False, published: bool = False
) -> Callable[[M], M]:
    """Register the decorated class as metric `name`."""

    def register(make: M) -> M:
        METRICS.register(name)(Metric(name, title, frozenset(kinds), make, labels, published))
        return make

    return register


def all_metrics() -> list[Metric]:
    """Every metric by name, those of plug-ins too; raises InputError where one of them cannot be had."""
    discover(sys.modules[__name__])
    return [METRICS.get(name) for name in METRICS.names()]
