"""What is measured of the outputs of every stage, beside the codes. One metric, one file.

`@metric("name", "title", unit="%")` registers what makes a metric: a class without arguments, one of whose objects sees
one stage. It has two methods. `update(outputs, target)` counts one batch: `outputs` maps each output's name, in the
network's order, to its float32 array [N, ...]; of a metric with `decoded=True` it is a list of what the decoder
returned for each of the N samples. `compute()` says the number, or None where there is none. A metric adds up and keeps
no batch where it can.

`target` is what the evaluation data gives for the batch: a tensor [N, ...], or a sequence of N things. A metric with
`against="float"` or `"artifact"` compares stages with one another and gets what that stage gives in its place. Where
the data has no targets, one with `answers` (a word for them: `boxes`) is judged against the float network's own: its
method `answer(outputs)` turns what float gives into targets.

A class may take parameters that have defaults, floats, whole numbers or texts: `f1:threshold=0.3,output=notes`. Two
methods are its own choice: `remark()` says what else there is to know of a stage, and `check_float()` raises InputError
where what it counted of the float network cannot be meant.

`parity.json` has the numbers under `metrics`, the screen and the report in a line.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from torch import Tensor

from isobit.pipeline.errors import InputError
from isobit.pipeline.registry import Registry, discover

Outputs = Mapping[str, np.ndarray]  # float32 [N, ...] by output name, in the network's order
Against = Literal["target", "float", "artifact"]


class Measurement(Protocol):
    """A metric at work on one stage of one build."""

    def update(self, outputs: Any, target: Any) -> None:
        """Count one batch; see the module."""
        ...

    def compute(self) -> float | None:
        """The number over all batches; None where nothing can be said."""
        ...


M = TypeVar("M", bound=Callable[[], Measurement])


@dataclass(frozen=True)
class Metric:
    """A registered metric, or one of the user's.

    Args:
        title: what the number is, for people: `top-1 accuracy`.
        make: makes one, for one stage.
        unit: of the number: `%`, `dB`, or an empty string.
        higher_is_better: more of it is good.
        against: what a stage is compared with: the targets of the evaluation data, or another stage.
        decoded: `update` gets what the decoder returned, and not the network's outputs.
        chooses: it reads the first output as choices between classes on axis 1, whatever its rank.
        published: it is always measured and has a place of its own in `parity.json`, on the screen and in the report.
        answers: what the float network's answers are called, where they may take the place of targets.
        beside: names of metrics that are measured wherever this one is.
    """

    name: str
    title: str
    make: Callable[[], Measurement]
    unit: str = ""
    higher_is_better: bool = True
    against: Against = "target"
    decoded: bool = False
    chooses: bool = False
    published: bool = False
    answers: str = ""
    beside: tuple[str, ...] = ()

    def loss(self, before: float, after: float) -> float:
        """By how much `after` is worse than `before`, in the metric's unit."""
        return before - after if self.higher_is_better else after - before


METRICS: Registry[Metric] = Registry("metric", InputError, "isobit.metrics", "options.metrics")


def metric(
    name: str, title: str, *, unit: str = "", higher_is_better: bool = True, against: Against = "target",
    decoded: bool = False, chooses: bool = False, published: bool = False, answers: str = "",
    beside: tuple[str, ...] = (),
) -> Callable[[M], M]:
    """Register what is decorated as metric `name`; see `Metric`."""

    def register(make: M) -> M:
        METRICS.register(name)(
            Metric(name, title, make, unit, higher_is_better, against, decoded, chooses, published, answers, beside)
        )
        return make

    return register


def find_metric(text: str) -> Metric:
    """The metric of that name, those of plug-ins too.

    Args:
        text: `name`, or `name:parameter=value,parameter=value`.

    Raises:
        InputError: there is none, it does not import, or it does not take such parameters.
    """
    discover(sys.modules[__name__])
    name, _, given = text.partition(":")
    found = METRICS.get(name)
    if not given:
        return found
    values = _parameters(found, given)
    return replace(found, name=text, title=f"{found.title} ({given})", make=partial(found.make, **values),
                   beside=tuple(f"{other}:{given}" for other in found.beside))


def _parameters(found: Metric, given: str) -> dict[str, Any]:
    """`threshold=0.3,output=notes` by name, each of the type that its default has."""
    known = {name: parameter.default for name, parameter in inspect.signature(found.make).parameters.items()
             if isinstance(parameter.default, float | int | str)}
    values: dict[str, Any] = {}
    for part in given.split(","):
        name, separator, value = part.partition("=")
        try:
            values[name] = type(known[name])(value)
            if not separator or (isinstance(values[name], float) and not math.isfinite(values[name])):
                raise ValueError
        except (KeyError, ValueError):
            raise InputError(
                f"the metric '{found.name}' takes no '{part}'", field="options.metrics",
                allowed=", ".join(f"{key}={default!r}" for key, default in known.items()) or "no parameters",
            ) from None
    return values


def metric_names() -> list[str]:
    """All names, sorted; plug-ins are not imported for this."""
    discover(sys.modules[__name__])
    return METRICS.names()


def first_output(outputs: Outputs) -> np.ndarray:
    """The network's first output, [N, ...]: the one that labels are for."""
    return next(iter(outputs.values()))


def class_output(outputs: Outputs, metric: str) -> np.ndarray:
    """The first output, [N, classes, ...]; raises InputError where it makes no choice between classes."""
    given = first_output(outputs)
    if given.ndim < 2 or given.shape[1] == 1:
        raise InputError(
            f"the metric '{metric}' is for outputs that choose a class, and the first output is "
            f"[{', '.join(['N', *map(str, given.shape[1:])])}]", field="options.metrics", allowed="[N, classes, ...]",
        )
    return given


def whole_numbers(target: Any, shape: tuple[int, ...], metric: str) -> np.ndarray:
    """Targets as int64 of a shape.

    Args:
        target: a tensor, an array, or nested lists.
        shape: that is wanted, N first.
        metric: whose targets they are, for errors.

    Raises:
        InputError: they are of another shape or no whole numbers.
    """
    found = as_array(target, metric)
    if found.shape != shape or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"the metric '{metric}' cannot compare with targets of shape {list(found.shape)} and type {found.dtype}",
            field="evaluation", allowed=f"whole numbers of shape {list(shape)}, a class for each",
        )
    return found.astype(np.int64)


def as_array(target: Any, metric: str) -> np.ndarray:
    """Targets as one array; raises InputError where the samples' targets are no numbers of one shape."""
    if isinstance(target, Tensor):
        return target.detach().cpu().numpy()
    try:
        found = np.asarray([np.asarray(one) for one in target])
    except (TypeError, ValueError):
        found = np.asarray(None)
    if not np.issubdtype(found.dtype, np.number):
        raise InputError(
            f"the metric '{metric}' cannot compare with targets of type {type(target).__name__}", field="evaluation",
            allowed="numbers, of one shape for every sample",
        )
    return found
