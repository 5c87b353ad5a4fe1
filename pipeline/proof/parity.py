"""Does the artifact compute what was calibrated? Integer codes compared tensor by tensor, in steps (LSB).

Four accuracies answer three questions: float -> calibrated is what calibration cost, calibrated -> reference what the
target did (int32 biases, projected grids, requantization), reference -> artifact is parity, and that one must be none.

Float operators (GELU, softmax) round differently in every library, so no two agree to the bit. After one, the target's
arithmetic takes over the session's own codes and goes on from there: the codes right after it are held to a bound that
float rounding explains, every integer before and after to equality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from isobit.pipeline.graph.ports import OUTPUT
from isobit.pipeline.proof.answers import Answers, Measured
from isobit.pipeline.proof.arithmetic import Arithmetic, Followed, Runner
from isobit.pipeline.proof.counts import BoundaryCount, CodeCount, Directed, FloatOutput, OutputCount, Reach
from isobit.pipeline.proof.findings import AccuracyVerdict, ReadBack, Rule
from isobit.pipeline.proof.measures import Measures
from isobit.pipeline.proof.observed import Seen
from isobit.pipeline.proof.outputs import Share, same_choice
from isobit.pipeline.proof.verdicts import headlines, reach_text
from isobit.pipeline.samples.arrays import Targets
from isobit.pipeline.samples.network_inputs import Inputs, copied, in_numpy, part, sample_count, tensors

LOGITS = OUTPUT  # the name of an output that has none of its own
# Samples for what fails no build: the exact evaluation and levels without integer kernels, which take most of the time.
INFORMATION_SAMPLES = 16


@dataclass
class LevelReport:
    """One session (one optimisation level) against the target's integer arithmetic."""

    level: str
    gated: bool
    samples: int = 0
    codes: CodeCount = field(default_factory=CodeCount)
    top1_agreement: float | None = None
    tensors: dict[str, CodeCount] = field(default_factory=dict)
    boundaries: dict[str, BoundaryCount] = field(default_factory=dict)
    outputs: dict[str, OutputCount] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    @property
    def logits_differing(self) -> int:
        """Output values that are not equal to the bit, of all outputs."""
        return sum(count.differing for count in self.outputs.values())

    @property
    def exact_differing(self) -> int:
        """The same of outputs that no float operator computes: they must be equal."""
        return sum(count.differing for count in self.outputs.values() if count.in_float is None)

    @property
    def float_output(self) -> FloatOutput | None:
        """The worst of the outputs that float operators compute; None where there are none."""
        found = [count.in_float for count in self.outputs.values() if count.in_float is not None]
        return max(found, key=lambda output: output.largest_error) if found else None

    @property
    def first_divergence(self) -> str | None:
        """Name of the first quantized tensor, in execution order, that is not what it must be."""
        wrong = {name for name, count in self.tensors.items() if count.differing}
        wrong |= {name for name, count in self.boundaries.items() if count.wrong}
        return next((name for name in self.order if name in wrong), None)

    @property
    def unexplained(self) -> int:
        """Codes right after float operators that float rounding does not explain."""
        return sum(count.unexplained for count in self.boundaries.values())

    @property
    def unsteady(self) -> int:
        """Codes right after float operators that float rounding moves by more than one step."""
        return sum(count.unsteady for count in self.boundaries.values())

    @property
    def wrong_outputs(self) -> list[str]:
        """Outputs that are not equal to the bit, or further off than float rounding where a float operator is last."""
        return [name for name, count in self.outputs.items() if count.wrong]


@dataclass
class ParityReport:
    """What `parity.json` holds; `to_json` gives the published form.

    Args:
        accuracy: top-1 in percent by stage; None where no labels apply.
        agreement: percent of positions at which a stage chooses the class that the artifact does; None where there is
            no choice.
        rules: of parity.
        answers: of all stages, with what accuracy is judged by.
        seen: what the samples look like.
        judged: the verdict on accuracy.
        exact_samples: how many samples the exact reference saw, for `moved_by_requantization`.
        reach: of each tensor, whether the target's arithmetic is the mathematics for every input.
        read_back: whether the files say what the reference says.
        directed: what the kernels gave for codes that were chosen to show it.
    """

    samples: int
    accuracy: dict[str, float | None]
    agreement: dict[str, float | None]
    levels: list[LevelReport]
    modules: dict[str, str]
    moved_by_requantization: CodeCount
    rules: list[Rule] = field(default_factory=list)
    integer_ops: dict[str, Any] = field(default_factory=dict)
    answers: Answers | None = None
    seen: Seen | None = None
    judged: AccuracyVerdict | None = None
    exact_samples: int = 0
    reach: list[Reach] = field(default_factory=list)
    read_back: ReadBack | None = None
    directed: Directed | None = None

    @property
    def deployed(self) -> LevelReport:
        """The level that users deploy with: the first."""
        return self.levels[0]

    @property
    def passed(self) -> bool:
        """Every rule of the gate holds."""
        return all(rule.passed for rule in self.gate)

    @property
    def gate(self) -> list[Rule]:
        """All rules: of parity, and of accuracy where a bound was given."""
        accuracy = None if self.judged is None else self.judged.rule
        return [*self.rules, *([accuracy] if accuracy is not None else [])]

    @property
    def parity_passed(self) -> bool:
        """The artifact computes what was calibrated."""
        return all(rule.passed for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """The content of `parity.json`, fields as published in docs/numerics.md."""
        return {
            "verdicts": {line.name.lower(): {"status": line.status, "text": line.text} for line in headlines(self)}
            | ({} if self.judged is None else {"accuracy": self.judged.to_json()}),
            "accuracy": self.accuracy,
            "samples": self.samples,
            "outputs": None if self.answers is None else self.answers.kind,
            "output_values": {
                name: {**count.to_json(), **self._distance(name)} for name, count in self.deployed.outputs.items()
            },
            "signal_to_noise_db": {} if self.answers is None else self.answers.signal_to_noise,
            "inputs": self._inputs(),
            "top1_agreement": self.deployed.top1_agreement,
            "top1_agreement_with_artifact": self.agreement,
            "codes": asdict(self.deployed.codes),
            "logits_differing": self.deployed.logits_differing,
            "float_boundaries": {name: asdict(count) for name, count in self.deployed.boundaries.items()},
            "float_output": self._float_output(),
            "first_divergence": self._divergence(),
            "gate": {"passed": self.passed, "rules": [asdict(rule) for rule in self.gate]},
            "integer_ops": self.integer_ops,
            "read_back": None if self.read_back is None else self.read_back.to_json(),
            "directed": None if self.directed is None else self.directed.to_json(),
            "levels": [self._level(level) for level in self.levels],
            "moved_by_requantization": {"samples": self.exact_samples, **asdict(self.moved_by_requantization)},
            "every_input": {
                "text": reach_text(self),
                "sum_limit": max((one.limit for one in self.reach if one.limit is not None), default=None),
                "tensors": {one.name: one.to_json() for one in self.reach},
            },
            "metrics": {} if self.answers is None else {
                name: said.to_json() for name, said in self.answers.all_measured.items()
            },
        }

    @property
    def measured(self) -> dict[str, Measured]:
        """What the metrics say that were named."""
        return {} if self.answers is None else self.answers.measured

    def _distance(self, output: str) -> dict[str, Any]:
        known = None if self.answers is None else self.answers.outputs.get(output)
        return {} if known is None else known.to_json()

    def _inputs(self) -> dict[str, Any]:
        sets = {} if self.seen is None else {"calibration": self.seen.calibration, "evaluation": self.seen.evaluation}
        return {name: known.to_json() for name, known in sets.items() if known is not None}

    def _divergence(self) -> dict[str, Any] | None:
        for level in self.levels:
            name = level.first_divergence if level.gated else None
            if name is not None:
                count = asdict(level.tensors.get(name) or level.boundaries[name])
                return {"tensor": name, "module": self.modules.get(name, ""), "level": level.level, **count}
        return None

    def _float_output(self) -> dict[str, Any] | None:
        found = self.deployed.float_output
        return None if found is None else OutputCount(in_float=found).to_json()["float_output"]

    def _level(self, level: LevelReport) -> dict[str, Any]:
        return {
            "level": level.level, "gated": level.gated, "samples": level.samples, **asdict(level.codes),
            "logits_differing": level.logits_differing, "top1_agreement": level.top1_agreement,
            "unexplained_behind_float": level.unexplained, "unsteady_behind_float": level.unsteady,
            "first_divergence": level.first_divergence,
        }


def compare(
    batches: Iterable[tuple[Inputs, Targets | None]],
    stages: Mapping[str, Callable[[Inputs], Inputs]],
    arithmetic: Arithmetic,
    sessions: Mapping[str, Runner],
    *,
    gated: Iterable[str],
    exact: Runner | None = None,
    other_samples: int | None = None,
    information_samples: int = INFORMATION_SAMPLES,
    modules: Mapping[str, str] | None = None,
    measures: Measures | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> ParityReport:
    """Run everything on the same batches and compare.

    Args:
        batches: (x [N, ...] or a tuple of several inputs, what is known of them or None).
        stages: `float` and `calibrated`, from a batch to the outputs; torch, any dtype.
        arithmetic: the target's own integer arithmetic on the reference; what every session is compared with. Where
            the runtime computes operators in float, it is run again for each session, after that session's codes.
        sessions: by optimisation level, the deployed one first; it sees every sample.
        gated: the levels that run integer kernels, where a single differing code fails the build.
        exact: the reference evaluated exactly, to count what the requantization rule itself moves.
        other_samples: how many samples the levels after the first see; None for all.
        information_samples: the same of `exact` and of levels that are not gated, unless `other_samples` is None.
        modules: layer or module path by tensor name, for the report.
        measures: the metrics that were named.
        progress: called with the number of samples done.
    """
    answers = Answers((*stages, "reference", "artifact"), measures)
    gated = set(gated)
    levels = [LevelReport(name, name in gated) for name in sessions]
    same_top1 = [Share() for _ in levels]
    moved, samples, exact_seen = CodeCount(), 0, 0
    for x, target in batches:
        count, expected = sample_count(x), arithmetic.run(x)
        chooses = answers.see(expected[arithmetic.outputs[0]], target) != "values"
        answered = {name: map(in_numpy, tensors(stage(copied(x)))) for name, stage in stages.items()}
        results: dict[str, Mapping[str, np.ndarray]] = {
            name: dict(zip(arithmetic.outputs, values, strict=True)) for name, values in answered.items()}
        results["reference"] = _outputs_of(arithmetic, expected)
        for index, (level, session) in enumerate(zip(levels, sessions.values(), strict=True)):
            keep = count if index == 0 else _left(level, other_samples, information_samples, count)
            if keep:
                got = session.run(seen := part(x, slice(keep)))
                plain = expected if keep == count else arithmetic.run(seen)
                same_top1[index].add(_compare_batch(level, arithmetic, seen, plain, got, chooses))
                if index == 0:
                    results["artifact"] = _outputs_of(arithmetic, got)
        if exact is not None and (keep := min(count, information_samples - samples)) > 0:
            exact_seen += keep
            _count_moved(moved, exact.run(part(x, slice(keep))), expected, arithmetic.outputs)
        answers.add(results, target)
        progress(samples := samples + count)
    for level, same in zip(levels, same_top1, strict=True):
        level.top1_agreement = same.percent
    agreement = {name: answers.agreement[name].percent for name in stages}
    return ParityReport(samples, answers.accuracy, agreement, levels, {**(modules or {})}, moved, answers=answers,
                        exact_samples=exact_seen)


def _outputs_of(arithmetic: Arithmetic, results: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The outputs alone, in the network's order, of a run that gives every tensor's codes as well."""
    return {name: results[name] for name in arithmetic.outputs}


def _count_moved(
    moved: CodeCount, exact: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> None:
    for name, codes in exact.items():
        if name not in outputs:
            moved.add(codes, expected[name][:len(codes)])


def _left(level: LevelReport, other: int | None, information: int, batch: int) -> int:
    """How many samples of a batch a level after the first still has to see."""
    if other is None:
        return batch
    return max(0, min(batch, (other if level.gated else min(other, information)) - level.samples))


def _compare_batch(
    level: LevelReport, arithmetic: Arithmetic, x: Inputs, plain: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray], chooses: bool,
) -> np.ndarray:
    """Count one batch at one level; returns where the first output's choice is that of the plain run, if it chooses."""
    count, first = sample_count(x), arithmetic.outputs[0]
    if arithmetic.float_boundaries or arithmetic.float_outputs:
        followed = arithmetic.follow(x, got)
    else:
        followed = Followed(dict(plain), {})
    compare_results(level, arithmetic, followed, got)
    level.samples += count
    return same_choice(plain[first], got[first]) if chooses else np.zeros(0, bool)


def compare_results(
    level: LevelReport, arithmetic: Arithmetic, followed: Followed, got: Mapping[str, np.ndarray]
) -> None:
    """Count what a session gave against the arithmetic, tensor by tensor."""
    level.order = [name for name in followed.results if name not in arithmetic.outputs]
    for name in level.order:
        _compare_tensor(level, name, followed, got.get(name), name in arithmetic.jumping)
    for name in arithmetic.outputs:
        counted = level.outputs.setdefault(name, OutputCount())
        in_float, bounds = name in arithmetic.float_outputs, followed.bounds.get(name)
        counted.add(followed.results[name], got.get(name), in_float, bounds)


def _compare_tensor(level: LevelReport, name: str, followed: Followed, got: np.ndarray | None, jumps: bool) -> None:
    codes = followed.results[name]
    if name in followed.bounds:
        level.boundaries.setdefault(name, BoundaryCount()).add_bounded(codes, got, *followed.bounds[name], jumps)
        return
    count = level.tensors.setdefault(name, CodeCount())
    level.codes.differing += count.add(codes, got)
    level.codes.compared += codes.size
    level.codes.max_lsb = max(level.codes.max_lsb, count.max_lsb)
