"""The step loop of one unit: soft rounding and learned activation scales, one objective, one backward, one Adam.

Nothing in the loop waits for the device: indices, exponents and rates are tables on the device that a counter on the
device walks through; no loss value is computed (its gradient is a closed form). On CUDA the step is recorded once
without and once with the regulariser and replayed as a graph; the first steps, and everything on a CPU, run eagerly
through the same function.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from calib.mixing import MaskSource, Mixing
from calib.objectives import Objective, Reconstruction
from calib.reconstruct import UnitWork
from calib.rounding import Descent, SoftRounding, beta_at
from pipeline.grid import QParams
from pipeline.quantizer import Quantizer

SMALLEST_SCALE = 1.19e-7  # float32's epsilon, as in QDrop's code
# Scales for which the papers' rates were made; others are learned as in units in which they would be TYPICAL.
ORDINARY_SCALES, TYPICAL = (2.0**-20, 2.0**20), 2.0**-7
REPORT_EVERY = 20
EAGER_STEPS = 3  # of a CUDA run, before recording: Adam makes its state, libraries choose their algorithms


Sampler = Literal["replacement", "permutation", "epochs"]
MakeObjective = Callable[[UnitWork, MaskSource], Objective]


@dataclass(frozen=True)
class Settings:
    """What a method decides about the loop; rates are those of this number of steps, already scaled.

    Args:
        keep_prob: probability that an activation element, inside the unit and at its input, is quantized.
        rounding_weight: lambda of the regulariser, which is a sum over all weights of the unit.
        learning_rate, scale_learning_rate: of alpha (constant) and of activation scales (cosine to 0); 0 for a scale
            that stays as it is.
        warmup: share of steps without regulariser; then its exponent goes from `beta_start` to `beta_end`.
        descent: how it goes there.
        gradient_factor: LSQ's damping of the scales' gradients.
        sampler: how a batch is drawn: independent indices (QDrop), the first of a fresh permutation in every step
            (BRECQ, AdaRound), or permutations used up one after the other.
        rounding: learn the rounding of the unit's weights; without, they go to their nearest codes.
        learn_inner: also mix and learn the quantizers that the papers do not have (8 bits before a sum).
    """

    steps: int
    keep_prob: float = 1.0
    rounding_weight: float = 0.01
    learning_rate: float = 1e-3
    scale_learning_rate: float = 0.0
    warmup: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    descent: Descent = "linear"
    gradient_factor: bool = False
    sampler: Sampler = "replacement"
    rounding: bool = True
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


class UnitTrainer:
    """Trains one unit by gradient descent; a `Trainer` of the engine.

    Args:
        make_objective: what the unit is asked for; by default to answer like the float network on mixed inputs.
    """

    def __init__(self, work: UnitWork, settings: Settings, make_objective: MakeObjective | None = None) -> None:
        self.work, self.settings = work, settings
        if not settings.rounding:
            work.harden_nearest()
        self.rounding = SoftRounding(list(work.weights)) if work.weights and settings.rounding else None
        candidates = (*work.activations, *(work.inner if settings.learn_inner else ()))
        self.learned = candidates if settings.scale_learning_rate > 0.0 or settings.keep_prob < 1.0 else ()
        self.masks = MaskSource(work.seed, work.device)
        self.objective: Objective = (
            make_objective(work, self.masks) if make_objective else Reconstruction(work, self.masks, settings.keep_prob)
        )
        self._scales = torch.nn.Parameter(_stacked(self.learned, work.device))
        self._scales.grad = torch.zeros_like(self._scales)
        self._pace = _pace(self._scales.detach())
        self._leaves = [self._leaf(index) for index in range(len(self.learned))]
        self._make_tables()
        self.optimiser = self._make_optimiser()

    def _leaf(self, index: int) -> Tensor:
        leaf = self._scales.detach()[index].requires_grad_()
        leaf.grad = self._scales.grad[index]
        return leaf

    def _make_tables(self) -> None:
        """Everything that varies with the step, drawn and computed before the first."""
        settings, work = self.settings, self.work
        random = np.random.Generator(np.random.SFC64([work.seed, 1]))
        draws = draw_batches(settings.sampler, settings.steps, work.count, work.batch_size, random)
        betas = [
            beta_at(step, settings.steps, settings.warmup, settings.beta_start, settings.beta_end, settings.descent)
            for step in range(1, settings.steps + 1)
        ]
        self._regularised = [beta is not None for beta in betas]
        rates = [
            0.5 * settings.scale_learning_rate * (1.0 + math.cos(math.pi * step / settings.steps))
            for step in range(settings.steps)
        ]
        self._indices = torch.from_numpy(draws).to(work.device)
        self._betas = torch.tensor([beta or 0.0 for beta in betas], device=work.device)
        self._rates = torch.tensor(rates, device=work.device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=work.device)

    def _make_optimiser(self) -> torch.optim.Adam:
        self._rate = torch.zeros((), device=self.work.device)
        groups: list[dict[str, object]] = []
        if self.rounding is not None:
            groups.append({"params": [self.rounding.alpha], "lr": self.settings.learning_rate})
        if self.learned:
            groups.append({"params": [self._scales], "lr": self._rate})
        if not groups:
            raise ValueError(f"nothing is left to learn in unit {self.work.unit.name}")
        return torch.optim.Adam(groups, fused=True, capturable=self.work.device.type == "cuda")

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, regularised: bool) -> None:
        index = self._indices.index_select(0, self._cursor).view(-1)
        self._rate.copy_(self._rates.index_select(0, self._cursor).view(()))
        if self.rounding is not None:
            self.rounding.refresh()
        self._scales.grad.zero_()
        outputs = self.work.student(*self.objective.inputs(index))
        torch.autograd.backward(outputs, self.objective.gradients(outputs, index))
        if self.rounding is not None:
            beta = self._betas.index_select(0, self._cursor) if regularised else None
            self.rounding.collect(self.settings.rounding_weight, beta)
        before = None if self._pace is None else self._scales.detach().clone()
        self.optimiser.step()
        scales = self._scales.detach()
        if before is None:
            scales.abs_().clamp_(min=SMALLEST_SCALE)
        else:
            scales.sub_(before).mul_(self._pace).add_(before).abs_().clamp_(min=SMALLEST_SCALE * self._pace)
        self._cursor.add_(1)

    # -- the run -------------------------------------------------------------------------------------------------

    def train(self, step: Callable[[int], None]) -> None:
        """Run all steps; afterwards the unit answers softly, with learned scales and no drop."""
        self._attach()
        try:
            self._run(step)
        finally:
            for quantizer in (*self.learned, *self.work.inner):
                quantizer.mixing = None
        self._store_scales()
        if self.rounding is not None:
            self.rounding.refresh()

    def _attach(self) -> None:
        if self.rounding is not None:
            self.rounding.attach()
        for quantizer in self.work.inner:
            quantizer.mixing = _identity
        for quantizer, scale in zip(self.learned, self._leaves, strict=True):
            quantizer.scale = scale.detach()  # shares memory: int32 biases read the scale of every step
            quantizer.mixing = Mixing(
                quantizer, scale, self.settings.keep_prob, self.masks, self.settings.gradient_factor
            )

    def _run(self, step: Callable[[int], None]) -> None:
        run = _Recorded(self._step, self.masks.generator) if self.work.device.type == "cuda" else self._step
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
        return 0.0 if self.rounding is None else self.rounding.undecided()

    def flipped(self) -> float:
        return 0.0 if self.rounding is None else self.rounding.flipped()

    def harden(self) -> None:
        if self.rounding is not None:
            self.rounding.harden()


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
