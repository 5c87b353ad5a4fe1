"""The one reconstruction engine: unit by unit, each trained to answer like the float network on the quantized prefix.

The engine walks, measures, hardens, guards, keeps checkpoints and carries values from unit to unit; how a unit is
trained is the method's part, a `Trainer`. AdaRound, BRECQ, QDrop and PD-Quant differ in that part only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from calib.boundary import Boundary, Stored, Stretch, stretches
from calib.context import Calibration
from pipeline.dialect import WEIGHTED
from pipeline.errors import CalibrationError
from pipeline.graph import get_attribute, is_constant, op_name, quantizer_of
from pipeline.grid import QParams
from pipeline.quantizer import Quantizer
from pipeline.stages import Unit, UnitLog


@dataclass(frozen=True)
class UnitWork:
    """One unit, ready to be trained.

    Args:
        student: the unit's sub-graph with its quantizers ON; `student(*inputs)` gives a tuple of outputs.
        inputs: per input, the value in the hardened, quantized prefix.
        teacher_inputs: per input, the value in the float network; None where mixing makes no sense (network input).
        targets: per output, the float network's value.
        weights: (quantizer, float weight) of each layer whose rounding is open.
        activations: quantizers whose scale is open: not fixed by the target, not shared with earlier units.
        inner: activation quantizers that the papers do not have: 8 bits on a branch that only enters a sum.
        count: number of images.
        batch_size: images of one step.
        seed: for every random number in this unit.
    """

    unit: Unit
    student: torch.fx.GraphModule
    inputs: tuple[Stored, ...]
    teacher_inputs: tuple[Stored | None, ...]
    targets: tuple[Stored, ...]
    weights: tuple[tuple[Quantizer, Tensor], ...]
    activations: tuple[Quantizer, ...]
    inner: tuple[Quantizer, ...]
    count: int
    batch_size: int
    seed: int
    device: torch.device


class Trainer(Protocol):
    """How a method trains one unit."""

    def train(self, step: Callable[[int], None]) -> None:
        """Run all steps; call `step(n)` now and then. Afterwards the unit answers softly, with nothing random in it."""

    def harden(self) -> None:
        """Decide every code; the unit's quantizers hold plain numbers afterwards."""

    def undecided(self) -> float:
        """Share of rounding variables that training left undecided."""

    def flipped(self) -> float:
        """Share of weights that do not go to their nearest code."""


MakeTrainer = Callable[[UnitWork], Trainer]
Prepare = Callable[[UnitWork], None]


def reconstruct(
    calibration: Calibration, steps: int, make_trainer: MakeTrainer, prepare: Prepare | None = None
) -> tuple[UnitLog, ...]:
    """Reconstruct every unit in execution order.

    Args:
        calibration: its quantizers have their ranges and are ON.
        steps: of one unit, for the log and the progress.
        make_trainer: the method's part.
        prepare: called with each unit before its nearest-rounding loss is measured (ranges on the quantized prefix).

    Raises:
        CalibrationError: a loss that is not finite; names the unit.
    """
    walk = stretches(calibration.graph, [unit.nodes for unit in calibration.units])
    boundary = Boundary(calibration.graph, calibration.images, calibration.device)
    calibration.progress.units(sum(stretch.unit is not None for stretch in walk), steps)
    logs: list[UnitLog] = []
    for stretch in walk:
        boundary.run_teacher(stretch)
        if stretch.unit is None:
            boundary.run_student(stretch, keep=True)
        else:
            logs.append(_unit(calibration, boundary, stretch, steps, make_trainer, prepare))
            calibration.progress.done(logs[-1])
        boundary.cross(stretch)
    return tuple(logs)


def _unit(
    calibration: Calibration, boundary: Boundary, stretch: Stretch, steps: int, make_trainer: MakeTrainer,
    prepare: Prepare | None,
) -> UnitLog:
    """Train one unit, or take it from its checkpoint; the boundary moves behind it either way."""
    quantizers = _members(calibration, stretch)
    unit = calibration.units[stretch.unit]
    kept = calibration.checkpoints if calibration.resume else None
    found = kept.load(stretch.unit, unit.name) if kept is not None else None
    if found is not None:
        log, state = found
        _restore(quantizers, state, calibration.device)
        boundary.run_student(stretch, keep=True)
        return log
    log = _train(calibration, boundary, stretch, steps, make_trainer, prepare)
    if calibration.checkpoints is not None:
        calibration.checkpoints.save(stretch.unit, log, _state(quantizers))
    return log


def _train(
    calibration: Calibration, boundary: Boundary, stretch: Stretch, steps: int, make_trainer: MakeTrainer,
    prepare: Prepare | None,
) -> UnitLog:
    begin = time.perf_counter()
    work = unit_work(calibration, boundary, stretch)
    if prepare is not None:
        prepare(work)
    before = [(quantizer, quantizer.params) for quantizer in work.activations]
    nearest = _finite(boundary.run_student(stretch), work.unit)
    if not work.weights and not work.activations:
        boundary.run_student(stretch, keep=True)
        return UnitLog(work.unit.name, 0, nearest, nearest, nearest, 0.0, 0.0, time.perf_counter() - begin)
    trainer = make_trainer(work)
    trainer.train(calibration.progress.step)
    soft = _finite(boundary.run_student(stretch), work.unit)
    undecided, flipped = trainer.undecided(), trainer.flipped()
    trainer.harden()
    hard = _finite(boundary.run_student(stretch, keep=True), work.unit)
    worse = hard > nearest
    if worse:
        for quantizer, params in before:
            quantizer.set_params(params)
        for quantizer, weight in work.weights:
            quantizer.set_params(quantizer.params)  # forgets the hardened codes
            quantizer.harden(quantizer.quantize(weight))
        boundary.run_student(stretch, keep=True)
    seconds = time.perf_counter() - begin
    return UnitLog(work.unit.name, steps, nearest, soft, hard, undecided, flipped, seconds, worse)


def _finite(loss: float, unit: Unit) -> float:
    if not math.isfinite(loss):
        raise CalibrationError(
            "the reconstruction loss is not finite", where=f"unit {unit.name}",
            hint="lower the learning rates (method.learning_rate, method.scale_learning_rate), or look at the data",
        )
    return loss


def unit_work(calibration: Calibration, boundary: Boundary, stretch: Stretch) -> UnitWork:
    """The unit of `stretch` as it stands in front of its training."""
    unit = calibration.units[stretch.unit]
    graph = calibration.graph
    free = set(calibration.activations().values()) - _used_before(calibration, stretch)
    names = set(unit.nodes)
    weights: dict[Quantizer, Tensor] = {}
    activations: dict[Quantizer, None] = {}
    inner: dict[Quantizer, None] = {}
    for node in graph.graph.nodes:
        quantizer = quantizer_of(graph, node) if node.name in names else None
        if quantizer is None:
            continue
        if is_constant(node) and quantizer.codes is None:
            weights.setdefault(quantizer, get_attribute(graph, node.args[0]))
        elif quantizer in free and _enters_only_sums(node, quantizer):
            inner.setdefault(quantizer)
        elif quantizer in free:
            activations.setdefault(quantizer)
    return UnitWork(
        unit, stretch.student, tuple(boundary.student[name] for name in stretch.inputs),
        tuple(None if name in boundary.raw else boundary.teacher[name] for name in stretch.inputs),
        tuple(boundary.teacher[name] for name in stretch.outputs), tuple(weights.items()),
        tuple(activations), tuple(q for q in inner if q not in activations), boundary.count,
        calibration.recipe.images.batch_size, calibration.seed(unit.name), calibration.device,
    )


def _enters_only_sums(node: torch.fx.Node, quantizer: Quantizer) -> bool:
    """A linear tensor of 8 bits or more that only residual sums read: the papers keep it in float."""
    linear = op_name(node.args[0]) in WEIGHTED
    return linear and quantizer.spec.grid.bits >= 8 and all(op_name(user) == "add" for user in node.users)


def _used_before(calibration: Calibration, stretch: Stretch) -> set[Quantizer]:
    """Quantizers at nodes that ran before this unit: their numbers are no longer free."""
    found: set[Quantizer] = set()
    names = set(calibration.units[stretch.unit].nodes)
    for node in calibration.graph.graph.nodes:
        if node.name in names and not is_constant(node):
            break
        quantizer = quantizer_of(calibration.graph, node)
        if quantizer is not None:
            found.add(quantizer)
    return found


def _members(calibration: Calibration, stretch: Stretch) -> Mapping[str, Quantizer]:
    """The unit's distinct quantizers by the name of their first node."""
    found: dict[Quantizer, str] = {}
    names = set(calibration.units[stretch.unit].nodes)
    for node in calibration.graph.graph.nodes:
        quantizer = quantizer_of(calibration.graph, node) if node.name in names else None
        if quantizer is not None:
            found.setdefault(quantizer, node.name)
    return {name: quantizer for quantizer, name in found.items()}


def _state(quantizers: Mapping[str, Quantizer]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, quantizer in quantizers.items():
        state[f"{name}.scale"] = quantizer.scale.detach().clone()
        state[f"{name}.zero_point"] = quantizer.zero_point.clone()
        if quantizer.codes is not None:
            state[f"{name}.codes"] = quantizer.codes.clone()
    return state


def _restore(quantizers: Mapping[str, Quantizer], state: Mapping[str, Tensor], device: torch.device) -> None:
    for name, quantizer in quantizers.items():
        scale, zero_point = state[f"{name}.scale"].to(device), state[f"{name}.zero_point"].to(device)
        quantizer.set_params(QParams(scale, zero_point))
        if f"{name}.codes" in state:
            quantizer.harden(state[f"{name}.codes"].to(device))
