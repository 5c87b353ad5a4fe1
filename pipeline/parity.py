"""Does the artifact compute what was calibrated? Integer codes compared tensor by tensor, in steps (LSB).

Four accuracies answer four questions: float -> calibrated is the method's loss, calibrated -> reference the target's
(int32 biases, projected grids, requantization), reference -> artifact is parity, and that one must be none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

LOGITS = "logits"


class Runner(Protocol):
    """Anything that runs a batch: the target's integer arithmetic, or a session of the artifact."""

    def run(self, x: Tensor) -> Mapping[str, np.ndarray]:
        """Codes of every quantized tensor by quantizer name in execution order, and float32 `logits`."""


@dataclass
class CodeCount:
    """How many integers were compared, how many differ, by how many steps at most."""

    compared: int = 0
    differing: int = 0
    max_lsb: int = 0

    def add(self, expected: np.ndarray, got: np.ndarray | None) -> int:
        """Count one tensor; returns how many of its codes differ. None or another shape differs everywhere."""
        self.compared += expected.size
        if got is None or expected.shape != got.shape:
            self.differing += expected.size
            return expected.size
        steps = np.abs(expected.astype(np.int64) - got.astype(np.int64))
        differing = int(np.count_nonzero(steps))
        self.differing += differing
        self.max_lsb = max(self.max_lsb, int(steps.max(initial=0)))
        return differing


@dataclass
class LevelReport:
    """One session (one optimisation level) against the target's integer arithmetic."""

    level: str
    gated: bool
    samples: int = 0
    codes: CodeCount = field(default_factory=CodeCount)
    logits_differing: int = 0
    top1_agreement: float | None = None
    tensors: dict[str, CodeCount] = field(default_factory=dict)

    @property
    def first_divergence(self) -> str | None:
        """Name of the first quantized tensor, in execution order, with a differing code."""
        return next((name for name, count in self.tensors.items() if count.differing), None)


@dataclass
class ParityReport:
    """What `parity.json` holds; `to_json` gives the published form."""

    samples: int
    accuracy: dict[str, float | None]
    agreement: dict[str, float]
    levels: list[LevelReport]
    modules: dict[str, str]
    moved_by_requantization: CodeCount
    rules: list[dict[str, Any]] = field(default_factory=list)
    integer_ops: dict[str, Any] = field(default_factory=dict)

    @property
    def deployed(self) -> LevelReport:
        """The level that users deploy with: the first."""
        return self.levels[0]

    @property
    def passed(self) -> bool:
        return all(rule["passed"] for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """The content of `parity.json`, fields as published in docs/numerics.md."""
        return {
            "accuracy": self.accuracy,
            "samples": self.samples,
            "top1_agreement": self.deployed.top1_agreement,
            "top1_agreement_with_artifact": self.agreement,
            "codes": asdict(self.deployed.codes),
            "logits_differing": self.deployed.logits_differing,
            "first_divergence": self._divergence(),
            "gate": {"passed": self.passed, "rules": self.rules},
            "integer_ops": self.integer_ops,
            "levels": [self._level(level) for level in self.levels],
            "moved_by_requantization": asdict(self.moved_by_requantization),
        }

    def _divergence(self) -> dict[str, Any] | None:
        for level in self.levels:
            name = level.first_divergence if level.gated else None
            if name is not None:
                count = asdict(level.tensors[name])
                return {"tensor": name, "module": self.modules.get(name, ""), "level": level.level, **count}
        return None

    def _level(self, level: LevelReport) -> dict[str, Any]:
        return {
            "level": level.level, "gated": level.gated, "samples": level.samples, **asdict(level.codes),
            "logits_differing": level.logits_differing, "top1_agreement": level.top1_agreement,
            "first_divergence": level.first_divergence,
        }


class _Accuracy:
    """Top-1 of one stage, counted batch by batch."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def add(self, logits: np.ndarray, labels: Tensor | None) -> None:
        if labels is not None:
            self.right += int((logits.argmax(axis=1) == labels.numpy()).sum())
            self.seen += len(labels)

    @property
    def percent(self) -> float | None:
        return round(100.0 * self.right / self.seen, 4) if self.seen else None


def compare(
    batches: Iterable[tuple[Tensor, Tensor | None]],
    stages: Mapping[str, Callable[[Tensor], Tensor]],
    arithmetic: Runner,
    sessions: Mapping[str, Runner],
    *,
    gated: Iterable[str],
    exact: Runner | None = None,
    other_samples: int | None = None,
    exact_samples: int = 256,
    modules: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> ParityReport:
    """Run everything on the same batches and compare.

    Args:
        batches: (x [N, ...], labels [N] or None).
        stages: `float` and `calibrated`, from a batch to logits; torch, any dtype.
        arithmetic: the target's own integer arithmetic on the reference; what every session is compared with.
        sessions: by optimisation level, the deployed one first; it sees every sample.
        gated: the levels that run integer kernels, where a single differing code fails the build.
        exact: the reference evaluated exactly, to count what the requantization rule itself moves.
        other_samples, exact_samples: how many samples the other levels and `exact` see; None for all.
        modules: module path by tensor name, for the report.
        progress: called with the number of samples done.
    """
    accuracy = {name: _Accuracy() for name in (*stages, "reference", "artifact")}
    agreement = {name: [0, 0] for name in stages}
    gated = set(gated)
    levels = [LevelReport(name, name in gated) for name in sessions]
    same_top1 = [0] * len(levels)
    moved, samples = CodeCount(), 0
    for x, labels in batches:
        expected = arithmetic.run(x)
        results = {name: _as_numpy(stage(x)) for name, stage in stages.items()}
        results["reference"] = expected[LOGITS]
        for index, (level, session) in enumerate(zip(levels, sessions.values(), strict=True)):
            keep = len(x) if index == 0 or other_samples is None else max(0, min(len(x), other_samples - level.samples))
            if keep:
                got = session.run(x[:keep])
                same_top1[index] += _compare_batch(level, expected, got, keep)
            if index == 0:
                results["artifact"] = got[LOGITS]
        if exact is not None and samples < exact_samples:
            keep = min(len(x), exact_samples - samples)
            for name, codes in exact.run(x[:keep]).items():
                if name != LOGITS:
                    moved.add(codes, expected[name][:keep])
        for name, logits in results.items():
            accuracy[name].add(logits, labels)
        for name, counts in agreement.items():
            counts[0] += int((results[name].argmax(axis=1) == results["artifact"].argmax(axis=1)).sum())
            counts[1] += len(x)
        samples += len(x)
        progress(samples)
    for level, same in zip(levels, same_top1, strict=True):
        level.top1_agreement = round(100.0 * same / level.samples, 4) if level.samples else None
    return ParityReport(
        samples, {name: value.percent for name, value in accuracy.items()},
        {name: round(100.0 * same / seen, 4) for name, (same, seen) in agreement.items() if seen},
        levels, dict(modules or {}), moved,
    )


def _compare_batch(
    level: LevelReport, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], keep: int
) -> int:
    """Count one batch at one level; returns how many samples have the same top-1."""
    for name, codes in expected.items():
        if name == LOGITS:
            continue
        count = level.tensors.setdefault(name, CodeCount())
        level.codes.differing += count.add(codes[:keep], got.get(name))
        level.codes.compared += codes[:keep].size
        level.codes.max_lsb = max(level.codes.max_lsb, count.max_lsb)
    wanted, logits = expected[LOGITS][:keep], got[LOGITS]
    level.logits_differing += int(np.count_nonzero(wanted.view(np.uint32) != logits.view(np.uint32)))
    level.samples += keep
    return int((wanted.argmax(axis=1) == logits.argmax(axis=1)).sum())


def apply_gates(report: ParityReport, *, max_drop: float | None = None) -> None:
    """Write the rules of the gate into the report: no differing code or logit at any gated level, and the accuracy.

    Args:
        max_drop: most points of top-1 that float -> artifact may lose; None for no accuracy rule.
    """
    for level in report.levels:
        if level.gated:
            differing = level.codes.differing + level.logits_differing
            report.rules.append({
                "rule": f"no code or logit differs from the target's integer arithmetic at level '{level.level}'",
                "measured": differing, "allowed": 0, "passed": differing == 0 and level.codes.compared > 0,
            })
    before, after = report.accuracy["float"], report.accuracy["artifact"]
    if max_drop is not None and before is not None and after is not None:
        drop = round(before - after, 4)
        report.rules.append({
            "rule": "top-1 points lost from float to artifact", "measured": drop, "allowed": max_drop,
            "passed": drop <= max_drop,
        })


def _as_numpy(logits: Tensor) -> np.ndarray:
    return logits.detach().to("cpu", torch.float32).numpy()
