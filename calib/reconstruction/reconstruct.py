"""The one reconstruction engine: unit by unit, each trained to answer like the float network on the quantized prefix.

The engine walks, measures, hardens, guards, keeps checkpoints and carries values from unit to unit; how a unit is
trained is the method's part, a `Trainer`. AdaRound, BRECQ, QDrop and PD-Quant differ in that part only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.precision import Precision
from isobit.calib.ranks import ALONE, Ranks
from isobit.calib.reconstruction.boundary import (
    EVALUATION_BATCH,
    Boundary,
    CachedValue,
    Segment,
    batches,
    check_rows,
    segments,
)
from isobit.calib.reconstruction.tail import Tail
from isobit.calib.roundings.nearest import round_to_nearest
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.nodes import get_attribute, is_constant, quantizer_of
from isobit.pipeline.graph.quantized_tensors import QuantizedTensor, quantized_tensors
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Phase, Quantizer
from isobit.pipeline.stages import Unit, UnitLog

MakeTail = Callable[[Precision, Collection[str]], Tail]


@dataclass(frozen=True)
class UnitTask:
    """One unit, ready to be trained.

    Args:
        student: the unit's sub-graph; `student(*inputs)` gives a tuple of outputs.
        teacher: the same nodes in float.
        inputs: per input, the value that the unit is trained on: in the hardened, quantized prefix, or in the float
            network where the sweep says so.
        teacher_inputs: per input, the value in the float network; None where mixing makes no sense (network input).
        float_inputs: the same, of the network input too.
        targets: per output, the float network's value.
        weights: (quantizer, float weight) of each layer whose rounding is open.
        activations: quantizers whose scale is open: not fixed by the target, not shared with earlier units.
        inner: activation quantizers that the papers do not have: 8 bits on a branch that only enters a sum.
        count: number of images.
        batch_size: images of one step.
        seed: for every random number in this unit.
        make_tail: builds the float network from the unit to the predictions of these nodes; costs nothing where no
            method asks.
        walk_batch: images of one forward pass that trains nothing.
        ranks: the processes that share each of the unit's steps.
    """

    unit: Unit
    student: torch.fx.GraphModule
    teacher: torch.fx.GraphModule
    inputs: tuple[CachedValue, ...]
    teacher_inputs: tuple[CachedValue | None, ...]
    float_inputs: tuple[CachedValue, ...]
    targets: tuple[CachedValue, ...]
    weights: tuple[tuple[Quantizer, Tensor], ...]
    activations: tuple[Quantizer, ...]
    inner: tuple[Quantizer, ...]
    count: int
    batch_size: int
    seed: int
    device: torch.device
    make_tail: MakeTail
    walk_batch: int = EVALUATION_BATCH
    ranks: Ranks = ALONE

    def empty(self) -> CachedValue:
        """Room for one float value of every image."""
        return CachedValue(self.count, self.device)

    def batches(self, size: int | None = None) -> Iterator[slice]:
        """Slices that walk over all images, `walk_batch` at a time where no size is given."""
        return batches(self.count, size or self.walk_batch)

    def harden_nearest(self) -> None:
        """Send every open weight to its nearest code."""
        round_to_nearest(self.weights)


@dataclass(frozen=True)
class Sweep:
    """How one pass over the units of a network goes.

    Args:
        steps: of one unit, for the log and the progress.
        units: what is trained, in execution order; None for the graph's own (blocks, and layers outside them).
        stage: names the pass in logs and checkpoints, where a method makes more than one.
        inputs: what units are trained on: the hardened, quantized prefix, or the float network's values.
        exponent: of the loss that is logged and that guards against results worse than nearest rounding.
    """

    steps: int
    units: tuple[Unit, ...] | None = None
    stage: str = ""
    inputs: Literal["prefix", "teacher"] = "prefix"
    exponent: float = 2.0


class Trainer(Protocol):
    """How a method trains one unit."""

    def train(self, step: Callable[[int], None]) -> None:
        """Run all steps; call `step(n)` now and then. Afterwards the unit answers softly, with nothing random in it."""
        ...

    def harden(self) -> None:
        """Decide every code; the unit's quantizers hold plain numbers afterwards."""
        ...

    def undecided(self) -> float:
        """Share of rounding variables that training left undecided."""
        ...

    def flipped(self) -> float:
        """Share of weights that do not go to their nearest code."""
        ...


MakeTrainer = Callable[[UnitTask], Trainer | None]
Prepare = Callable[[UnitTask], None]


def reconstruct(
    calibration: Calibration, sweep: Sweep, make_trainer: MakeTrainer, prepare: Prepare | None = None
) -> tuple[UnitLog, ...]:
    """Reconstruct every unit in execution order.

    Args:
        calibration: quantizers that take part have their ranges and are ON.
        make_trainer: the method's part; None for a unit that it leaves at nearest rounding.
        prepare: called with each unit before its nearest-rounding loss is measured (ranges on the quantized prefix).

    Raises:
        CalibrationError: fewer images than a step takes, or a loss that is not finite; names the unit.
    """
    images, batch = calibration.count, calibration.recipe.images.batch_size
    if images < batch:
        raise CalibrationError(
            f"{images} calibration images do not fill one batch of {batch}", hint="give more images or lower the "
            "recipe's images.batch_size",
            field="recipe.images.batch_size",
        )
    return _Run(calibration, sweep, make_trainer, prepare).run()


class _Run:
    """One sweep: the boundary moves from segment to segment, units are trained or taken from their checkpoints."""

    def __init__(
        self, calibration: Calibration, sweep: Sweep, make_trainer: MakeTrainer, prepare: Prepare | None
    ) -> None:
        self.calibration, self.sweep = calibration, sweep
        self.make_trainer, self.prepare = make_trainer, prepare
        self.units = calibration.units if sweep.units is None else sweep.units
        self.path = segments(calibration.graph, [unit.nodes for unit in self.units])
        handed_on = [name for segment in self.path for name in segment.outputs]
        sample = calibration.batch_at(slice(0, 1))
        method = f"the method '{calibration.recipe.method.name}'"
        check_rows(calibration.graph, handed_on, sample, method, "recipe.method.name", "Take nearest")
        self.boundary = Boundary(
            calibration.graph, calibration.images, calibration.device, calibration.batch
        )
        dealt = sweep.inputs == "teacher"  # then no unit waits for another, and each rank trains some to the end
        self.ranks = ALONE if dealt else calibration.ranks
        groups = _sharing(calibration, self.units)
        mine = calibration.ranks.deal(len(groups)) if dealt else range(len(groups))
        self.mine = {number for place in mine for number in groups[place]}

    def run(self) -> tuple[UnitLog, ...]:
        calibration, progress = self.calibration, self.calibration.progress
        progress.units(sum(segment.unit is not None for segment in self.path), self.sweep.steps)
        _follow(calibration.ranks, quantized_tensors(calibration.graph).distinct().by_name(), calibration)
        logs: dict[int, UnitLog] = {}
        last = max((place for place, segment in enumerate(self.path) if segment.unit is not None), default=-1)
        for place, segment in enumerate(self.path[: last + 1]):  # what follows the last unit has nothing to train
            self.boundary.run_teacher(segment)
            if segment.unit is None:
                self.boundary.run_student(segment, keep=True)
            elif segment.unit in self.mine:
                logs[segment.unit] = self._unit(place, segment, segment.unit)
                progress.done(logs[segment.unit])
            if self.sweep.inputs == "teacher":
                self.boundary.follow_teacher(segment)
            self.boundary.cross(segment)
        return self._gathered(logs)

    def _gathered(self, own: Mapping[int, UnitLog]) -> tuple[UnitLog, ...]:
        """The logs of all units in execution order; units that other ranks trained get the numbers found there."""
        logs, ranks = dict(own), self.calibration.ranks
        members = {number: _members(self.calibration, unit) for number, unit in enumerate(self.units)}
        for found in ranks.collect({number: (log, _state(members[number])) for number, log in own.items()}):
            for number in found.keys() - own.keys():
                logs[number], state = found[number]
                _restore(members[number], state, self.calibration.device)
                self.calibration.progress.done(logs[number])
        return tuple(logs[segment.unit] for segment in self.path if segment.unit in logs)

    def _unit(self, place: int, segment: Segment, number: int) -> UnitLog:
        """Train unit `number`, or take it from its checkpoint; the boundary moves after it either way."""
        calibration = self.calibration
        unit = self.units[number]
        quantizers = _members(calibration, unit)
        kept = calibration.checkpoints if calibration.resume else None
        found = self.ranks.first(
            lambda: kept.load(number, unit.name, self.sweep.stage) if kept is not None else None
        )
        if found is not None:
            log, state = found
            _restore(quantizers, state, calibration.device)
            self.boundary.run_student(segment, keep=True)
            return log
        log = self._train(place, segment, unit)
        if calibration.checkpoints is not None and self.ranks.leads:
            calibration.checkpoints.save(number, log, _state(quantizers))
        return log

    def _train(self, place: int, segment: Segment, unit: Unit) -> UnitLog:
        begin = time.perf_counter()
        task = replace(unit_task(self.calibration, self.boundary, self.path, place, unit), ranks=self.ranks)
        if self.prepare is not None:
            self.prepare(task)
            _follow(self.ranks, _members(self.calibration, unit), self.calibration)
        weights = (quantizer for quantizer, _ in task.weights)
        before = [(quantizer, quantizer.params) for quantizer in (*task.activations, *weights)]
        nearest = self._loss(task, segment)
        trainer = self.make_trainer(task) if task.weights or task.activations else None
        if trainer is None:
            task.harden_nearest()
            self._loss(task, segment, keep=True)
            seconds = time.perf_counter() - begin
            return UnitLog(task.unit.name, 0, nearest, nearest, nearest, 0.0, 0.0, seconds, stage=self.sweep.stage)
        trainer.train(self.calibration.progress.step)
        soft = self._loss(task, segment)
        undecided, flipped = trainer.undecided(), trainer.flipped()
        trainer.harden()
        _follow(self.ranks, _members(self.calibration, unit), self.calibration)
        hard = self._loss(task, segment, keep=True)
        worse = hard > nearest
        if worse:
            for quantizer, params in before:
                quantizer.set_params(params)
            task.harden_nearest()
            self._loss(task, segment, keep=True)
        seconds = time.perf_counter() - begin
        return UnitLog(
            task.unit.name, self.sweep.steps, nearest, soft, hard, undecided, flipped, seconds, worse, self.sweep.stage
        )

    def _loss(self, task: UnitTask, segment: Segment, keep: bool = False) -> float:
        loss = self.boundary.run_student(segment, keep, self.sweep.exponent)
        return _finite(self.ranks.first(lambda: loss), task.unit)  # what it decides is decided alike everywhere


def _finite(loss: float, unit: Unit) -> float:
    if not math.isfinite(loss):
        raise CalibrationError(
            "the reconstruction loss is not finite", where=f"unit {unit.name}",
            hint="lower the learning rates (method.learning_rate, method.scale_learning_rate), or look at the data",
            field="recipe.method.learning_rate",
        )
    return loss


def unit_task(
    calibration: Calibration, boundary: Boundary, path: Sequence[Segment], place: int, unit: Unit
) -> UnitTask:
    """The unit at `place` of the path, as it stands before its training."""
    graph, segment = calibration.graph, path[place]
    free = {q for q in calibration.activations().values() if q.phase is Phase.ON} - _used_before(calibration, unit)
    names = set(unit.nodes)
    weights: dict[Quantizer, Tensor] = {}
    activations: dict[Quantizer, None] = {}
    inner: dict[Quantizer, None] = {}
    for tensor in quantized_tensors(graph).within(names):
        quantizer = tensor.quantizer
        if tensor.is_weight and quantizer.codes is None:
            weights.setdefault(quantizer, get_attribute(graph, tensor.source))
        elif quantizer in free and _is_inner(tensor):
            inner.setdefault(quantizer)
        elif quantizer in free:
            activations.setdefault(quantizer)

    def make_tail(precision: Precision, answers: Collection[str]) -> Tail:
        after = [name for later in path[place + 1 :] for name in later.nodes]
        return Tail(graph, after, segment.outputs, boundary.student, answers, precision)

    return UnitTask(
        unit=unit, student=segment.student, teacher=segment.teacher,
        inputs=tuple(boundary.student[name] for name in segment.inputs),
        teacher_inputs=tuple(None if name in boundary.raw else boundary.teacher[name] for name in segment.inputs),
        float_inputs=tuple(boundary.teacher[name] for name in segment.inputs),
        targets=tuple(boundary.teacher[name] for name in segment.outputs), weights=tuple(weights.items()),
        activations=tuple(activations), inner=tuple(q for q in inner if q not in activations),
        count=boundary.count, batch_size=calibration.recipe.images.batch_size,
        seed=calibration.seed(unit.name), device=calibration.device, make_tail=make_tail,
        walk_batch=boundary.batch,
    )


def _is_inner(tensor: QuantizedTensor) -> bool:
    """A branch that enters only residual sums: the papers keep it in float."""
    annotation = annotation_of(tensor.source)
    return annotation is not None and annotation.kind == "inner"


def _used_before(calibration: Calibration, unit: Unit) -> set[Quantizer]:
    """Quantizers at nodes that ran before this unit: their numbers are no longer free."""
    found: set[Quantizer] = set()
    names = set(unit.nodes)
    for node in calibration.graph.graph.nodes:
        if node.name in names and not is_constant(node):
            break
        quantizer = quantizer_of(calibration.graph, node)
        if quantizer is not None:
            found.add(quantizer)
    return found


def _members(calibration: Calibration, unit: Unit) -> Mapping[str, Quantizer]:
    """The unit's distinct quantizers by the name of their first node."""
    return quantized_tensors(calibration.graph).within(set(unit.nodes)).distinct().by_name()


def _sharing(calibration: Calibration, units: Sequence[Unit]) -> list[list[int]]:
    """The numbers of the units in groups: those that have a quantizer in common are in one, in execution order."""
    groups: list[tuple[set[Quantizer], list[int]]] = []
    for number, unit in enumerate(units):
        held, numbers = set(_members(calibration, unit).values()), [number]
        for group in [group for group in groups if group[0] & held]:
            groups.remove(group)
            held, numbers = held | group[0], group[1] + numbers
        groups.append((held, numbers))
    return [sorted(numbers) for _, numbers in groups]


def _follow(ranks: Ranks, quantizers: Mapping[str, Quantizer], calibration: Calibration) -> None:
    """Give the numbers of these quantizers on the first rank to all: devices may differ in the last bits."""
    ranks.follow(lambda: _state(quantizers), lambda state: _restore(quantizers, state, calibration.device))


def _state(quantizers: Mapping[str, Quantizer]) -> dict[str, Tensor]:
    """The numbers of these quantizers, on the CPU."""
    state: dict[str, Tensor] = {}
    for name, quantizer in quantizers.items():
        if not quantizer.calibrated:  # still OFF in this sweep
            continue
        state[f"{name}.scale"] = quantizer.scale.detach().to("cpu", copy=True)
        state[f"{name}.zero_point"] = quantizer.zero_point.to("cpu", copy=True)
        if quantizer.codes is not None:
            state[f"{name}.codes"] = quantizer.codes.to("cpu", copy=True)
        if quantizer.rounded_at is not None:
            state[f"{name}.rounded_at"] = quantizer.rounded_at.detach().to("cpu", copy=True)
    return state


def _restore(quantizers: Mapping[str, Quantizer], state: Mapping[str, Tensor], device: torch.device) -> None:
    for name, quantizer in quantizers.items():
        if f"{name}.scale" not in state:
            continue
        scale, zero_point = state[f"{name}.scale"].to(device), state[f"{name}.zero_point"].to(device)
        quantizer.set_params(QParams(scale, zero_point))
        if f"{name}.codes" in state:
            rounded_at = state.get(f"{name}.rounded_at")
            quantizer.harden(state[f"{name}.codes"].to(device), None if rounded_at is None else rounded_at.to(device))
