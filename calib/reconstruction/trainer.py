"""The step loop of one unit: a rounding and learned activation scales, one objective, one backward.

Nothing in the loop waits for the device: indices and rates are tables on the device that a counter on the device walks
through; no loss value is computed unless the rounding asks for it (its gradient is a closed form). On CUDA the step is
recorded once without and once with the rounding's regulariser and replayed as a graph; the first steps, and everything
on a CPU, run eagerly through the same function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from isobit.calib.rates import cosine_factor
from isobit.calib.reconstruction.mixing import Annealed, MaskSource, Mixing
from isobit.calib.reconstruction.objectives import Objective, Reconstruction
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.roundings import ChosenRounding, Rounding
from isobit.calib.roundings.nearest import NEAREST
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Quantizer, StandIn, stand_in_for

SMALLEST_SCALE = 1.19e-7  # float32's epsilon, as in QDrop's code
# Scales for which the papers' rates were made; others are learned as in units in which they would be TYPICAL.
ORDINARY_SCALES, TYPICAL = (2.0**-20, 2.0**20), 2.0**-7
REPORT_EVERY = 20
EAGER_STEPS = 3  # of a CUDA run, before recording: Adam makes its state, libraries choose their algorithms


Sampler = Literal["replacement", "permutation", "epochs"]
MakeObjective = Callable[[UnitTask, MaskSource], Objective]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a method decides about the loop; rates are those of this number of steps.

    Args:
        steps: of the unit.
        rounding: of its weights.
        keep_prob: probability that an activation element, inside the unit and at its input, is quantized.
        anneal: share of the steps over which that probability rises to 1; 0 where it stays. The unit's input follows
            where the objective is the loop's own.
        scale_learning_rate: of activation scales, cosine to 0; 0 where they stay as they are.
        gradient_factor: LSQ's damping of the scales' gradients.
        sampler: how a batch is drawn: independent indices (QDrop), the first of a fresh permutation in every step
            (BRECQ, AdaRound), or permutations used up one after the other.
        learn_inner: also mix and learn the quantizers that the papers do not have (8 bits before a sum).
    """

    steps: int
    rounding: ChosenRounding = NEAREST
    keep_prob: float = 1.0
    anneal: float = 0.0
    scale_learning_rate: float = 0.0
    gradient_factor: bool = False
    sampler: Sampler = "replacement"
    learn_inner: bool = False


def draw_batches(sampler: Sampler, steps: int, count: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Indices [steps, size] of the images of every step.

    Args:
        count: number of images; at least `size`.
    """
    if sampler == "replacement":
        return random.integers(0, count, (steps, size))
    if sampler == "permutation":
        return np.stack([random.permutation(count)[:size] for _ in range(steps)])
    whole = count // size * size  # a batch never spans two epochs, so that no image stands in it twice
    epochs = [random.permutation(count)[:whole] for _ in range(-(-steps * size // whole))]
    return np.concatenate(epochs)[: steps * size].reshape(steps, size)


def _candidates(task: UnitTask, settings: Settings) -> tuple[Quantizer, ...]:
    """Quantizers whose scale may be learned."""
    return (*task.activations, *(task.inner if settings.learn_inner else ()))


def _learns(task: UnitTask, settings: Settings) -> bool:
    """Whether steps change anything: scales that values reach, or variables of the rounding."""
    reached = settings.keep_prob > 0.0 or settings.anneal > 0.0
    scales = settings.scale_learning_rate > 0.0 and reached and _candidates(task, settings)
    return bool(scales) or (bool(task.weights) and settings.rounding.kind.learns)


class UnitTrainer:
    """Trains one unit by gradient descent; a `Trainer` of the engine.

    Args:
        make_objective: what the unit is asked for; by default to answer like the float network on mixed inputs.

    Raises:
        ValueError: nothing is left to learn in this unit; see `unit_trainer`.
    """

    def __init__(self, task: UnitTask, settings: Settings, make_objective: MakeObjective | None = None) -> None:
        if not _learns(task, settings):
            raise ValueError(f"nothing is left to learn in unit {task.unit.name}")
        self.task, self.settings = task, settings
        chosen = settings.rounding if task.weights else NEAREST
        self.rounding: Rounding = chosen.make(task.weights, settings.steps)
        learned = settings.scale_learning_rate > 0.0 or settings.keep_prob < 1.0
        self.learned = _candidates(task, settings) if learned else ()
        self.bypassed = tuple(quantizer for quantizer in task.inner if quantizer not in self.learned)
        self.masks = MaskSource(task.seed + task.ranks.rank, task.device)
        self.keep = Annealed(settings.keep_prob, settings.anneal, settings.steps, task.device)
        self.objective: Objective = (
            make_objective(task, self.masks) if make_objective else Reconstruction(task, self.masks, self.keep.now)
        )
        self._scales = torch.nn.Parameter(_stacked(self.learned, task.device))
        self._gradients = self._scales.grad = torch.zeros_like(self._scales)
        self._pace = _pace(self._scales.detach())
        self._leaves = [self._leaf(index) for index in range(len(self.learned))]
        self._make_tables()
        self._rate = torch.zeros((), device=task.device)
        self.optimiser = torch.optim.Adam(
            [self._scales], lr=self._rate, fused=True, capturable=task.device.type == "cuda"
        ) if self.learned else None
        self._attached = ExitStack()

    def _leaf(self, index: int) -> Tensor:
        leaf = self._scales.detach()[index].requires_grad_()
        leaf.grad = self._gradients[index]
        return leaf

    def _make_tables(self) -> None:
        """Everything that varies with the step, drawn and computed before the first."""
        settings, task = self.settings, self.task
        random = np.random.Generator(np.random.SFC64([task.seed, 1]))
        draws = draw_batches(settings.sampler, settings.steps, task.count, task.batch_size, random)
        self._regularised = [self.rounding.regularised(step) for step in range(settings.steps)]
        rates = [
            settings.scale_learning_rate * cosine_factor(step, settings.steps) for step in range(settings.steps)
        ]
        self._indices = torch.from_numpy(task.ranks.share(draws)).to(task.device)
        self._rates = torch.tensor(rates, device=task.device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=task.device)

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, regularised: bool) -> None:
        index = self._indices.index_select(0, self._cursor).view(-1)
        self._rate.copy_(self._rates.index_select(0, self._cursor).view(()))
        self.keep.move(self._cursor)
        self.rounding.refresh()
        self._gradients.zero_()
        outputs = self.task.student(*self.objective.inputs(index))
        # What only hands on another unit's value, or is a number of something, learns nothing here.
        pairs = zip(outputs, self.objective.gradients(outputs, index), strict=True)
        learning = [(output, gradient) for output, gradient in pairs if output.requires_grad]
        if learning:
            torch.autograd.backward([output for output, _ in learning], [gradient for _, gradient in learning])
        self.task.ranks.average(*self.rounding.arrived(), self._gradients)
        self.rounding.collect(self._cursor, regularised, lambda: self._loss(outputs, index))
        if self.optimiser is not None:
            self._move_scales(self.optimiser)
        self._cursor.add_(1)

    def _loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        loss = self.objective.loss(outputs, index)
        self.task.ranks.average(loss)
        return loss

    def _move_scales(self, optimiser: torch.optim.Adam) -> None:
        before = None if self._pace is None else self._scales.detach().clone()
        optimiser.step()
        scales = self._scales.detach()
        if self._pace is None or before is None:
            scales.abs_().clamp_(min=SMALLEST_SCALE)
        else:
            scales.sub_(before).mul_(self._pace).add_(before).abs_().clamp_(min=SMALLEST_SCALE * self._pace)

    # -- the run -------------------------------------------------------------------------------------------------

    def train(self, step: Callable[[int], None]) -> None:
        """Run all steps; afterwards the unit answers with its rounding, learned scales and no drop.

        Interrupted, it gives every quantizer back as it was.
        """
        before = [(quantizer, quantizer.params) for quantizer in self.learned]
        try:
            self._attach()
            self._run(step)
        except BaseException:
            self.rounding.detach()
            for quantizer, params in before:
                quantizer.set_params(params)
            raise
        finally:
            self._attached.close()
        self._store_scales()
        self.rounding.settle()

    def _attach(self) -> None:
        self.rounding.attach()
        damped, world = self.settings.gradient_factor, self.task.ranks.world
        mixtures: list[tuple[Quantizer, StandIn]] = [
            (quantizer, Mixing(quantizer, scale, self.keep.now, self.masks, damped, world))
            for quantizer, scale in zip(self.learned, self._leaves, strict=True)
        ]
        self._attached = stand_in_for([*((quantizer, _identity) for quantizer in self.bypassed), *mixtures])
        for quantizer, scale in zip(self.learned, self._leaves, strict=True):
            quantizer.scale = scale.detach()  # shares memory: int32 biases read the scale of every step

    def _run(self, step: Callable[[int], None]) -> None:
        run = _Recorded(self._step, self.masks.generator) if self.task.device.type == "cuda" else self._step
        pending = 0
        for regularised in self._regularised:
            run(regularised)
            pending += 1
            if pending == REPORT_EVERY:
                step(pending)
                pending = 0
        if pending:
            step(pending)

    def _store_scales(self) -> None:
        for quantizer, scale in zip(self.learned, self._scales.detach().clone(), strict=True):
            if bool(torch.isfinite(scale)):
                quantizer.set_params(QParams(scale, quantizer.zero_point))

    def undecided(self) -> float:
        return self.rounding.undecided()

    def flipped(self) -> float:
        return self.rounding.flipped()

    def harden(self) -> None:
        self.rounding.harden()


def unit_trainer(
    task: UnitTask, settings: Settings, make_objective: MakeObjective | None = None
) -> UnitTrainer | None:
    """A trainer of the unit; None where no step could change anything, so that it stays at nearest rounding."""
    return UnitTrainer(task, settings, make_objective) if _learns(task, settings) else None


def _identity(x: Tensor) -> Tensor:
    return x


def _stacked(quantizers: tuple[Quantizer, ...], device: torch.device) -> Tensor:
    scales = [quantizer.scale.detach().float().reshape(()) for quantizer in quantizers]
    return torch.stack(scales).to(device) if scales else torch.zeros(0, device=device)


def _pace(scales: Tensor) -> Tensor | None:
    """Factor [scales] on what a step changes, and on the smallest scale; None where all scales are ordinary.

    Adam's steps are of the rate's size whatever the gradient's, so the rate says in which units scales are.
    """
    ordinary = (scales >= ORDINARY_SCALES[0]) & (scales <= ORDINARY_SCALES[1])
    return None if bool(ordinary.all()) else torch.where(ordinary, 1.0, scales / TYPICAL)


class _Recorded:
    """A step as CUDA graphs, one per value of its argument; the eager step where recording is refused.

    All state of the step (parameters, gradients, Adam's moments, counter, generator) lives in tensors that are never
    replaced, so a replay does what a call does.
    """

    def __init__(self, step: Callable[[bool], None], generator: torch.Generator | None) -> None:
        self._step, self._generator = step, generator
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self._calls: dict[bool, int] = {False: 0, True: 0}
        self._stream = torch.cuda.Stream()
        self._refused = False

    def __call__(self, regularised: bool) -> None:
        self._calls[regularised] += 1
        if self._refused or self._calls[regularised] <= EAGER_STEPS:
            self._eager(regularised)
            return
        if regularised not in self._graphs:
            self._record(regularised)
        if self._refused:
            self._eager(regularised)
        else:
            self._graphs[regularised].replay()

    def _eager(self, regularised: bool) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step(regularised)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, regularised: bool) -> None:
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            graph.register_generator_state(self._generator)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._step(regularised)
            self._graphs[regularised] = graph
        except RuntimeError as error:
            self._refused = True
            warnings.warn(f"the step cannot be recorded as a CUDA graph, it runs eagerly: {error}", stacklevel=2)
