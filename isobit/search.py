"""The smallest artifact that loses no more than is allowed: bits of every layer, tried by real calibrations.

    uniform        = Runner.try_uniform           the same bits everywhere, with the recipe's policy and without
    sensitivities  = weight_losses(...)           what each layer costs, down to fewer bits than the smallest has
    frontier       = pareto_frontier(...)         every choice of bits that no other beats in size and sensitivity
    descent        = Runner.descend               a few of its points are calibrated, frozen and measured
    recipe         = the smallest that passes     `isobit build --recipe` takes it as it is

What is found is no larger than the smallest uniform recipe that was tried and passes: layers are lowered from there,
and then some are raised for others to be lowered further.
Every trial is a calibration by the recipe itself, at most `CALIBRATIONS` of them, because a method that learns makes
few bits cheap where a range search cannot.
Activations take 8 bits, the most that a recipe can ask for: they are bytes on every target, and fewer save nothing.

The drop is measured on the samples that are given, and the choice is made by it: on other samples it may be another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from isobit import passes
from isobit.analyze import Analysis, Subject, open_recipe, place_at
from isobit.calib.calibrate import calibrate
from isobit.calib.estimate import estimate, spoken
from isobit.calib.machine import measure_machine
from isobit.calib.mixed_precision.allocation import sensitivities
from isobit.calib.mixed_precision.frontier_search import smallest_passing
from isobit.judge import Judge
from isobit.latency import measure_latencies
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.errors import InputError, TargetError
from isobit.pipeline.proof.drop import Drop
from isobit.pipeline.proof.observed import spread
from isobit.pipeline.recipe.budget import MAX_BITS
from isobit.pipeline.recipe.schema import Override, Recipe, RuleChange, changed, exactly, weight_change
from isobit.pipeline.samples.network_inputs import part, sample_count
from isobit.pipeline.stages import Quantized
from isobit.space import Sizes, Space, width_of

Objective = Literal["size", "latency"]
CALIBRATIONS = 10  # that a search may take, by the recipe's own method
SAMPLES = (32, 256)  # that sensitivities are means over: at least and at most, between them what one judgement costs


@dataclass(frozen=True)
class Trial:
    """One choice of bits that was calibrated and measured.

    Args:
        bits: of the weights, by the layer's name.
        bytes: of the weight codes as the target stores them (`WeightLimits.stored_bits`).
        cost: what is made small: those bytes, or estimated milliseconds of one inference.
        drop: from the float network to the frozen reference. A target that rounds some codes otherwise moves it a
            little: the build with `max_drop` judges the artifact.
        passed: it lost no more than is allowed.
    """

    bits: Mapping[str, int]
    bytes: int
    cost: float
    drop: Drop
    passed: bool

    @property
    def text(self) -> str:
        """In a line."""
        counted: dict[int, int] = {}
        for bits in self.bits.values():
            counted[bits] = counted.get(bits, 0) + 1
        widths = ", ".join(f"{count} at {bits}" for bits, count in sorted(counted.items()))
        verdict = "passes" if self.passed else "loses too much"
        return f"{self.bytes:,} bytes ({widths} bits): {self.drop.text}: {verdict}"


@dataclass(frozen=True)
class Search:
    """What a search found.

    Args:
        max_drop: most that may be lost.
        trials: in their order.
        best: the smallest that passes; the one that loses least where none passes.
        recipe: that makes it, whole; its name is `wanted`.
        minimize: `size` or `latency`.
        latencies: milliseconds of one inference by bits of all weights, measured; empty for `size`.
        samples: that drops are measured on.
        held_back: they are calibration samples that no calibration saw.
    """

    max_drop: float
    trials: tuple[Trial, ...]
    best: Trial
    recipe: Recipe
    minimize: Objective
    latencies: Mapping[int, float]
    samples: int
    held_back: bool

    @property
    def passed(self) -> bool:
        """Whether something loses no more than is allowed."""
        return self.best.passed


def search(
    subject: Subject, judge: Judge, analysis: Analysis, watcher: TimedStages, *,
    wanted: str, minimize: Objective = "size", calibrations: int = CALIBRATIONS,
) -> Search:
    """The bits of every layer that make the smallest or quickest artifact within `options.max_drop` of the subject.

    Args:
        subject, judge: as `hold_back` gives them.
        analysis: of `subject`.
        wanted: name of the recipe that comes out.
        minimize: bytes of weight codes, or the latency that `isobit.latency` estimates.
        calibrations: at most so many.

    Raises:
        CompileError: see `pipeline.errors`.
    """
    max_drop = subject.options.max_drop
    if max_drop is None:
        raise InputError("a search needs to know what may be lost", field="options.max_drop")
    watcher.stage("search")
    at_bits = place_at(subject.quantized, analysis.bits)
    latencies = measure_latencies(at_bits, subject.images) if minimize == "latency" else {}
    sizes = Sizes.of(at_bits, analysis, latencies)
    runner = Runner(subject, judge, sizes, max_drop, watcher, wanted)
    watcher.expected(runner.expected(calibrations))
    failed, passed = runner.try_uniform(at_bits, max(1, calibrations // 2))
    if passed is not None and failed is not None and len(runner.trials) < calibrations:
        near = _near(sizes.widths(at_bits), failed, passed)
        watcher.stage("measure sensitivities near the smallest that passes")
        losses = weight_losses(subject, {bits: at_bits[bits] for bits in near}, sizes, judge.samples, watcher)
        watcher.stage("lower layers")
        raised = any(width_of(choice, passed.bits) < near[-1] for choice in sizes.free)  # some could be
        left = calibrations - len(runner.trials)
        runner.descend(losses, failed, passed, -(-left // 2) if raised else left, passed.bits)
        if raised and len(runner.trials) < calibrations:
            watcher.stage("raise some layers and lower others")
            runner.descend(losses, failed, runner.best(), calibrations - len(runner.trials))
    best = runner.best()
    watcher.end()
    recipe = mixed_recipe(subject.quantized.recipe, best.bits, wanted)
    return Search(max_drop, tuple(runner.trials), best, recipe, minimize, latencies,
                  judge.samples, subject.evaluation is None)


def weight_losses(
    subject: Subject, at_bits: Mapping[int, Quantized], sizes: Sizes, judged: int, watcher: TimedStages
) -> list[dict[int, float]]:
    """How far the answers move where only the weights of one choice are quantized: bits -> that, of each free choice.

    Channels are equalized as the recipe says. More samples than `isobit analyze` shows, because only weights are
    quantized: as many as cost what one judgement does, within `SAMPLES`. Fewer bits never count as less loss.

    Args:
        at_bits: the bits that are compared.
        judged: samples of a judgement, each of which passes through two networks.
    """
    options, widest = subject.options, at_bits[max(at_bits)]
    walks = len(sizes.free) * len(at_bits) / 2
    count = min(max(round(2 * judged / max(walks, 1.0)), SAMPLES[0]), SAMPLES[1])
    images = part(subject.images, spread(sample_count(subject.images), count))
    prepared = calibrate(widest, images, device=options.device, memory=options.memory)
    choices = [replace(choice, specs={bits: choice.specs[bits] for bits in at_bits}) for choice in sizes.free]
    found = sensitivities(prepared, choices, images, torch.device(options.device), watcher.allocating, options.memory)
    return [_falling(known) for known in found]


def _falling(losses: Mapping[int, float]) -> dict[int, float]:
    """Losses by bits, made to fall with bits where chance says otherwise."""
    wide = sorted(losses, reverse=True)
    known = [losses[bits] if math.isfinite(losses[bits]) else 1e30 for bits in wide]
    return dict(zip(wide, itertools.accumulate(known, max), strict=True))


def _near(widths: Sequence[int], failed: Trial, passed: Trial) -> list[int]:
    """What layers may get, of `widths`: all down to one step below both uniform trials."""
    usual = [max(set(trial.bits.values()), key=list(trial.bits.values()).count) for trial in (failed, passed)]
    lowest = widths.index(_nearest(widths, min(usual)))
    return list(widths[max(lowest - 1, 0):])


def _nearest(known: Iterable[int], bits: int) -> int:
    return min(known, key=lambda other: abs(other - bits))


def mixed_recipe(recipe: Recipe, bits: Mapping[str, int], name: str) -> Recipe:
    """`recipe` with a line for the layers of each number of bits, before its own overrides; no policy.

    The bits that most layers have are the recipe's own; activations have the most that a recipe can ask for.
    """
    counted = sorted(bits.values())
    usual = max(sorted(set(counted)), key=counted.count)
    base = recipe.model_copy(update={
        "name": name, "policy": "none",
        "weights": changed(recipe.weights, weight_change(usual)),
        "activations": changed(recipe.activations, RuleChange(bits=MAX_BITS)),
    })
    if any(other.startswith(f"{path}.") for path in bits for other in bits) or "" in bits:
        return base.with_bits(bits)
    lines = []
    for width in sorted(set(counted) - {usual}):
        layers = tuple(exactly(path) for path, own in bits.items() if own == width)
        lines.append(Override(where=layers[0] if len(layers) == 1 else layers, weights=weight_change(width)))
    return base.model_copy(update={"overrides": (*lines, *recipe.overrides)})


class Runner:
    """Tries choices of bits and remembers what came out."""

    def __init__(
        self, subject: Subject, judge: Judge, sizes: Sizes, max_drop: float, watcher: TimedStages, wanted: str
    ) -> None:
        self.subject, self.judge, self.sizes, self.max_drop = subject, judge, sizes, max_drop
        self.watcher, self.wanted = watcher, wanted
        self.given = subject.quantized.recipe
        self.trials: list[Trial] = []

    def expected(self, calibrations: int) -> str:
        """What the search will take, said before it."""
        one = estimate(self.subject.quantized, sample_count(self.subject.images), machine=measure_machine(),
                       samples=self.judge.samples)
        seconds = one.cpu_s + (one.proof_s or 0.0) / 2
        return (f"at most {calibrations} calibrations of about {spoken(seconds)} each on this CPU; drops on "
                f"{self.judge.samples:,} samples")

    def uniform(self, at_bits: Mapping[int, Quantized]) -> list[tuple[float, dict[str, int]]]:
        """(cost, bits of every layer) of the same bits everywhere but for overrides, and as the recipe's policy says.

        Costs rise strictly: of the same cost, the one with the most bits.
        """
        quantized, found = self.subject.quantized, dict[float, dict[str, int]]()
        for bits in self.sizes.widths(at_bits):
            recipe = open_recipe(self.given, bits)
            for policy in ("none", self.given.policy):
                held = recipe.model_copy(update={"policy": policy})
                try:
                    placed = passes.quantize(quantized.captured, held, quantized.target)
                except TargetError:
                    continue  # the policy's bits do not fit the target beside these
                chosen = self.sizes.placed_bits(placed)
                if not self.sizes.latencies or set(chosen.values()) <= set(self.sizes.latencies):
                    total = sum(self.sizes.one(choice, width_of(choice, chosen)) for choice in self.sizes.choices)
                    found[self.sizes.cost(total)] = chosen
        return sorted(found.items(), key=lambda item: item[0])

    def try_uniform(self, at_bits: Mapping[int, Quantized], tries: int) -> tuple[Trial | None, Trial | None]:
        """(the largest uniform choice that loses too much, the smallest that passes), of at most `tries` of them.

        What is found is then no larger than these, however little sensitivities say of this network.
        """
        known = self.uniform(at_bits)
        costs = [cost for cost, _ in known]
        smallest_passing(costs, lambda place: self.calibrate(known[place][1], costs[place]).passed, tries, fine=1.0)
        failed = max((trial for trial in self.trials if not trial.passed), key=lambda trial: trial.cost, default=None)
        passed = min((trial for trial in self.trials if trial.passed), key=lambda trial: trial.cost, default=None)
        return failed, passed

    def descend(
        self, losses: Sequence[Mapping[int, float]], failed: Trial, passed: Trial, tries: int,
        most: Mapping[str, int] | None = None,
    ) -> None:
        """Try what no other choice beats and is smaller than `passed`, down to what moves answers as far as `failed`.

        Guesses lie where sensitivities put the wanted drop.

        Args:
            most: bits by the layer's name that none gets more than; None for no limit.
        """
        free = list(zip(self.sizes.free, losses, strict=True))

        def loss(trial: Trial) -> float:
            return sum(known[_nearest(known, width_of(choice, trial.bits))] for choice, known in free)

        space = Space.of(self.sizes, [
            {bits: known[bits] for bits in known if most is None or bits <= _nearest(known, width_of(choice, most))}
            for choice, known in free
        ])
        high = max(loss(failed), loss(passed))
        points = [point for point, cost in enumerate(space.costs)
                  if cost < passed.cost and space.frontier.omegas[point] <= high]
        if not points:
            return
        costs, tried = [space.costs[point] for point in points], dict[int | None, Trial]()

        def guess(failing: int | None, passing: int | None) -> int | None:
            """Where the answers move as far as the wanted drop has them, on the line through the two trials."""
            ends = tried.get(failing, failed), tried.get(passing, passed)
            if ends[0].drop.lost <= ends[1].drop.lost:
                return None
            share = (self.max_drop - ends[1].drop.lost) / (ends[0].drop.lost - ends[1].drop.lost)
            wanted = loss(ends[1]) + (loss(ends[0]) - loss(ends[1])) * share
            return next((place for place, point in enumerate(points) if space.frontier.omegas[point] <= wanted), None)

        def passes_at(place: int) -> bool:
            tried[place] = self.calibrate(space.bits(points[place]), costs[place])
            return tried[place].passed

        smallest_passing(costs, passes_at, tries, guess)

    def calibrate(self, bits: Mapping[str, int], cost: float) -> Trial:
        """Calibrate with these bits, freeze, and measure what is lost; what was tried before is not tried again."""
        before = next((trial for trial in self.trials if trial.bits == bits), None)
        if before is not None:
            return before
        subject, options = self.subject, self.subject.options
        quantized = subject.quantized
        recipe = mixed_recipe(self.given, bits, self.wanted)
        placed = passes.quantize(quantized.captured, recipe, quantized.target)
        calibrated = calibrate(
            placed, subject.images, device=options.device, progress=self.watcher, memory=options.memory,
            labels=subject.labels,
        )
        drop = self.judge.drop(passes.legalize(calibrated)[0])
        trial = Trial(bits, self.sizes.bytes(bits), cost, drop, drop.lost <= self.max_drop)
        self.trials.append(trial)
        self.watcher.tried(f"trial {len(self.trials)}: {trial.text}")
        return trial

    def best(self) -> Trial:
        """The smallest that passes; without one, the one that loses least."""
        passing = [trial for trial in self.trials if trial.passed]
        if passing:
            return min(passing, key=lambda trial: (trial.cost, trial.drop.lost))
        return min(self.trials, key=lambda trial: (trial.drop.lost, trial.bytes))
