"""Which metrics a build was asked for: names, or the user's own functions and classes, with the decoder that they read.

`file.py:name` names a class that has `update` and `compute` (see `pipeline.proof.metrics`), or a function: it gets
`(outputs, target)` of one batch and returns a number, or one for each sample; the mean over all samples is reported.
Either may carry `unit`, `higher_is_better`, `against` and `decoded`, as attributes; a class `answers` too, with a
method `answer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, fx

from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.ports import output_names
from isobit.pipeline.model.user_code import cause_shown, check_call, function_in_file
from isobit.pipeline.proof.metrics import Against, Measurement, Metric, Outputs, find_metric, metric_names
from isobit.pipeline.proof.outputs import Kind, labels_positions, output_kind
from isobit.pipeline.samples.arrays import Targets, are_labels
from isobit.pipeline.samples.coco import box_classes
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.decoder import Decoder
from isobit.pipeline.samples.network_inputs import Inputs, copied, tensors

ARGUMENT = "options.metrics"
REHEARSED, REHEARSED_FOR_GATE = 2, 64  # samples that metrics are tried on before calibration
DEFAULT_METRIC = "top1"  # what judges a build with labels where no metric is named


@dataclass(frozen=True)
class Measures:
    """What is measured of every stage, beside what always is.

    Args:
        metrics: as they were named; the first that compares with targets is what `options.max_drop` holds.
        decoder: for those that read what it returns; None where none does.
        size: (height, width) of the network's input, for the decoder; (0, 0) where it is no image.
    """

    metrics: tuple[Metric, ...] = ()
    decoder: Decoder | None = None
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"the metric '{doubled[0]}' is named twice", field=ARGUMENT,
                             allowed="each metric once", hint="Name each once.")
        lacking = [metric.name for metric in self.metrics if metric.decoded]
        if lacking and self.decoder is None:
            raise InputError(
                f"the metric '{lacking[0]}' reads what a decoder makes of the outputs, and none is named",
                field="options.decoder", hint="Name one: `options.decoder=path/to/file.py:function`.",
            )

    @property
    def judge_labels(self) -> bool:
        """Whether whole numbers [N] are labels of the network's classes; of a user's own metric they may be anything.
        """
        return self.held is None or self.held.chooses

    @property
    def rehearsed(self) -> bool:
        """There is something of the user's choice that may fail: see `rehearse`."""
        return bool(self.metrics) or self.decoder is not None

    @property
    def held(self) -> Metric | None:
        """The first of those that compare with targets: it judges the build. None where there is none."""
        return next((metric for metric in self.metrics if metric.against == "target"), None)

    def kind_of(self, shape: Sequence[int], target: Targets | None) -> Kind:
        """What the first output is, of this shape, N first: a metric that was named says that classes lie on axis 1,
        or labels of the positions do.

        Args:
            target: of the same samples.
        """
        labelled = isinstance(target, Tensor) and labels_positions(target.numpy(), shape)
        return output_kind(shape, labelled or any(metric.chooses for metric in self.metrics))

    def notes(self, targets: Targets | None) -> list[str]:
        """A sentence where there are targets that nothing compares."""
        if self.held is not None or targets is None or are_labels(targets):
            return []
        how = "`options.metrics=map` with `options.decoder=file.py:function` compares boxes" \
            if box_classes(targets) is not None else "`options.metrics` names what compares them"
        return [f"the targets of the evaluation data are not compared: {how}"]

    def check(self, targets: Targets | None, max_drop: float | None, samples: bool = True) -> None:
        """Refuse what cannot be measured.

        Args:
            targets: of the evaluation data.
            max_drop: of `held`, or of top-1 where there is none.
            samples: there is evaluation data, on which the float network's answers may stand for targets.

        Raises:
            InputError: targets are missing, or `max_drop` is no amount.
        """
        check_drop(max_drop)
        if self.held is not None and targets is None and not (samples and self.held.answers):
            raise InputError(
                f"the metric '{self.held.name}' compares with targets, and there are none", field="evaluation",
                hint="Give `evaluation` with targets: an .npz with x and y, or file.py:function that yields both.",
            )
        if max_drop is not None and self.held is None and not are_labels(targets):
            raise InputError(
                "an accuracy gate needs labels, or a metric that compares with the targets", field="options.max_drop",
                hint="Give `evaluation` with labels, or name a metric that compares with targets (`options.metrics`).",
            )

    def decoded(self, outputs: Outputs) -> list[Any]:
        """What the decoder makes of each sample of a batch; nothing where no metric asks for it."""
        if self.decoder is None or not any(metric.decoded for metric in self.metrics):
            return []
        count = len(next(iter(outputs.values())))
        samples = ({name: array[place] for name, array in outputs.items()} for place in range(count))
        return [self.decoder(sample, self.size) for sample in samples]

    def of_input(self, size: tuple[int, int] | None) -> Measures:
        """The same for a network whose input has this (height, width); None leaves it (0, 0)."""
        return self if size is None else replace(self, size=size)


def check_drop(max_drop: float | None) -> None:
    """Raises InputError where `max_drop` is no amount; None is none."""
    if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"an artifact cannot be held to a drop of {max_drop}", field="options.max_drop",
                         allowed="a finite number, 0 or more")


def find_measures(names: Iterable[str], decoder: Decoder | None = None) -> Measures:
    """The metrics of these names.

    Args:
        names: of registered metrics, or `path/to/file.py:function_or_class`.

    Raises:
        InputError: there is none of that name, or the user's file does not give it.
    """
    named = [_of_user(name) if ".py:" in name else find_metric(name) for name in names]
    known = {metric.name for metric in named}
    found = [one for metric in named
             for one in (metric, *(find_metric(other) for other in metric.beside if other not in known))]
    return Measures(tuple(found), decoder)


def rehearse(measures: Measures, graph: fx.GraphModule, inputs: Inputs, target: Targets | None) -> float | None:
    """Measure a few samples on the float network, so that what fails does so before calibration.

    Returns:
        what the metric that judges the build says of them; None where it gives no number.

    Raises:
        InputError: the decoder or a metric cannot read the outputs or the targets.
    """
    with torch.no_grad():
        found = graph(*tensors(copied(inputs)))
    outputs = {name: array.detach().to(torch.float32).numpy()
               for name, array in zip(output_names(graph), tensors(found), strict=True)}
    if measures.decoder is not None:
        measures.decoder({name: array[0] for name, array in outputs.items()}, measures.size)
    decoded, held = measures.decoded(outputs), None
    for metric in measures.metrics:
        made, given = Guarded(metric), decoded if metric.decoded else outputs
        against = made.yardstick(target, given) if metric.against == "target" else given
        if against is not None:
            made.update(given, against)
            made.check_float()
            number = made.compute()
            held = number if metric is measures.held else held
    return held


def rehearse_gate(
    measures: Measures, graph: fx.GraphModule, seen: Batches, known: bool, max_drop: float | None
) -> None:
    """`rehearse` on two samples; on more of them, from all over, where a gate gets no number from two.

    Args:
        known: the targets of `seen` are to be compared with.
        max_drop: of the gate; None where there is none.

    Raises:
        InputError: as from `rehearse`; the metric that judges a gate gives no finite number.
    """
    count = min(len(seen), REHEARSED_FOR_GATE)
    spread = seen.select([place * len(seen) // count for place in range(count)])
    for samples in (replace(seen, batch_size=REHEARSED), replace(spread, batch_size=count)):
        inputs, target = next(iter(samples))
        found = rehearse(measures, graph, inputs, target if known else None)
        if found is not None or max_drop is None or measures.held is None:
            return
    raise InputError(
        f"the metric '{measures.held.name if measures.held else ''}' gives no finite number for the float network, "
        f"on {count} samples", field=ARGUMENT, allowed="with `options.max_drop`: a metric that gives finite numbers",
    )


class Guarded:
    """A metric at work, what it may leave out filled in; where its code fails, the error says whose it is."""

    def __init__(self, metric: Metric) -> None:
        self._name, self._answers = metric.name, bool(metric.answers)
        self._made: Any = self._call(metric.make)

    def yardstick(self, target: Any, float_gives: Any) -> Any:
        """The targets, or without them the float network's answers; None where the metric cannot take those."""
        if target is not None or not self._answers:
            return target
        return self._call(self._made.answer, float_gives)

    def remark(self) -> str:
        """What else there is to know; an empty string for nothing."""
        return str(self._call(self._made.remark)) if hasattr(self._made, "remark") else ""

    def check_float(self) -> None:
        """Refuse what was counted of the float network, where that cannot be meant."""
        if hasattr(self._made, "check_float"):
            self._call(self._made.check_float)

    def update(self, outputs: Any, target: Any) -> None:
        """Count one batch."""
        self._call(self._made.update, outputs, target)

    def compute(self) -> float | None:
        """The number; None where it is not finite."""
        found = self._call(self._made.compute)
        if found is None:
            return None
        number = self._call(float, found)
        return number if math.isfinite(number) else None

    def _call(self, what: Callable[..., Any], *given: Any) -> Any:
        with cause_shown(f"`{ARGUMENT}={self._name}`", f"the metric '{self._name}' fails", ARGUMENT):
            return what(*given)


class _Mean:
    """A user's function as a metric: the mean over samples of what it returns."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function, self._total, self._count = function, 0.0, 0

    def update(self, outputs: Any, target: Any) -> None:
        """Add up what the function says of one batch."""
        count = len(next(iter(outputs.values()))) if isinstance(outputs, Mapping) else len(outputs)
        said = _numbers(self._function(outputs, target), count)
        self._total += float(said.sum()) * (count if said.size == 1 else 1)
        self._count += count

    def compute(self) -> float | None:
        """The mean; None where nothing was counted."""
        return self._total / self._count if self._count else None


def _numbers(said: Any, count: int) -> np.ndarray:
    """What a user's function returned as float64, one number or `count`; raises InputError where it is neither."""
    found = np.asarray(said.detach().cpu() if isinstance(said, Tensor) else said)
    numbers = np.issubdtype(found.dtype, np.number) or found.dtype == np.bool_
    if not numbers or np.iscomplexobj(found) or found.size not in (1, count):
        what = f"{found.size} numbers for {count} samples" if numbers else type(said).__name__
        raise InputError(f"the metric returns {what}", field=ARGUMENT,
                         allowed="one number for the batch, or one for each sample")
    return found.astype(np.float64)


def _of_user(text: str) -> Metric:
    """The metric that `path/to/file.py:function_or_class` names.

    Raises:
        InputError: the file does not give it, its name is one of Isobit's, or what it says of itself is not allowed.
    """
    found, name, where = function_in_file(text, ARGUMENT), text.rpartition(":")[2], f"`{ARGUMENT}={text}`"
    if name in metric_names():
        raise InputError(f"there is a metric '{name}' already", where=where, field=ARGUMENT,
                         hint="Give yours another name.")
    if isinstance(found, type) and not all(callable(getattr(found, method, None)) for method in ("update", "compute")):
        raise InputError(f"the class '{name}' is no metric", where=where, field=ARGUMENT,
                         allowed="a class with update(outputs, target) and compute()")
    if not isinstance(found, type):
        check_call(found, ({}, None), where, ARGUMENT, "f(outputs, targets)")
    against: Any = getattr(found, "against", "target")
    if against not in get_args(Against):
        raise InputError(f"'{name}' compares with {against!r}", where=where, field=ARGUMENT,
                         allowed=f"`against` as one of {', '.join(get_args(Against))}")
    make: Callable[[], Measurement] = found if isinstance(found, type) else lambda: _Mean(found)
    better = getattr(found, "higher_is_better", True)
    return Metric(name, name.replace("_", " "), make, str(getattr(found, "unit", "")), better is not False, against,
                  decoded=bool(getattr(found, "decoded", False)),
                  answers=str(getattr(found, "answers", "")) if callable(getattr(found, "answer", None)) else "")
