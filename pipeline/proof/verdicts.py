"""The verdicts PARITY and ACCURACY on a build, and what each stage cost: one wording for screen, report and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isobit.pipeline.proof.parity import LevelReport, ParityReport

STAGES = {
    "float": "the trained model",
    "calibrated": "calibration: few bits on this target's grids",
    "reference": "the target: int32 biases, grids it cannot hold, its rounding",
    "artifact": "the files: nothing may be lost here",
}
BAD_CALIBRATION = "calibration data that does not fit, see ACCURACY"


@dataclass(frozen=True)
class Headline:
    """One verdict.

    Args:
        name: PARITY or ACCURACY.
        status: `ok`, `unknown`, `warning` or `failed`.
        text: one line.
        details: sentences below it.
    """

    name: str
    status: str
    text: str
    details: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`PARITY PASSED`, `ACCURACY WARNING`."""
        words = {"PARITY": {"ok": "PASSED"}}.get(self.name, {})
        return f"{self.name} {words.get(self.status, self.status.upper())}"

    @property
    def line(self) -> str:
        return f"{self.title}: {self.text}"


def headlines(report: ParityReport) -> tuple[Headline, ...]:
    """Parity first; accuracy where it was judged."""
    found = [Headline("PARITY", "ok" if report.parity_passed else "failed", parity_text(report))]
    judged = report.judged
    if judged is not None:
        details = tuple(finding.text for finding in judged.findings)
        found.append(Headline("ACCURACY", judged.status, judged.text, details))
    return tuple(found)


def parity_text(report: ParityReport) -> str:
    """What was compared, or what is wrong, in one line."""
    level, samples = report.deployed, f"({report.samples:,} samples)"
    codes = level.codes
    failed = [rule for rule in report.rules if not rule.passed]
    differing = f"{codes.differing:,} of {codes.compared:,} integer codes differ from the reference, " \
                f"by up to {codes.max_lsb} step(s)"
    if level.gated and codes.differing:
        return f"{differing} {samples}"
    if level.gated and level.unexplained:
        return f"{level.unexplained:,} codes right after float operators are wrong {samples}"
    if level.gated and level.unsteady:
        return f"float rounding alone moves {level.unsteady:,} codes by more than one step {samples}: what is " \
               "quantized there is a difference of nearly equal numbers"
    if failed:
        return f"{failed[0].text} {samples}"
    if codes.differing:
        return f"{differing}, at a level of float kernels, which is not held to them {samples}"
    if not codes.compared:
        return f"{_without_codes(level)} {samples}"
    where = " that integer kernels compute" if level.boundaries else ""
    return f"all {codes.compared:,} integer codes{where} equal the reference {samples}"


def _without_codes(level: LevelReport) -> str:
    """What was compared where float operators stand before every quantizer."""
    after = sum(count.compared for count in level.boundaries.values())
    values = sum(count.compared for count in level.outputs.values())
    exact = all(count.in_float is None for count in level.outputs.values())
    near = "the reference's but for float rounding"
    codes = f"{after:,} codes right after float operators are {near}, and " if after else ""
    outputs = f"{values:,} output values are " + ("equal to the reference's" if exact else near)
    return f"no integer kernel gives codes here: {codes}{outputs}"


@dataclass(frozen=True)
class Step:
    """One stage: its number, what that changed by since the stage before (None for the first), and by what cause."""

    stage: str
    value: float | None
    change: float | None
    cause: str


@dataclass(frozen=True)
class Steps:
    """The four stages in order, by the number that judges the build.

    Args:
        title: of the number: `top-1`, `COCO mean average precision`.
        unit: of it and of its changes, `%` or the metric's own.
        rows: none where nothing with a number for each stage judges the build.
    """

    title: str
    unit: str
    rows: tuple[Step, ...]

    def number(self, value: float | None) -> str:
        """`87.40 %`, `0.0123`."""
        if value is None:
            return "not measured"
        return f"{value:.2f} %" if self.unit == "%" else f"{value:.6g}{f' {self.unit}' if self.unit else ''}"

    def change(self, change: float) -> str:
        """`-0.84`."""
        return f"{change:+.2f}" if self.unit == "%" else f"{change:+.4g}"


def steps(report: ParityReport) -> Steps:
    """By the metric that was named and judges the build, else by top-1."""
    held = None if report.answers is None else report.answers.held_metric
    if held is None or report.answers is None:
        return Steps("top-1", "%", _steps(report, report.accuracy))
    said = report.answers.measured[held.name]
    return Steps(said.title, held.unit, _steps(report, said.values))


def _steps(report: ParityReport, values: Mapping[str, float | None]) -> tuple[Step, ...]:
    rows, before = [], None
    blamed = report.judged is not None and report.judged.blames_calibration
    if all(value is None for value in values.values()):
        return ()
    for stage, cause in STAGES.items():
        value = values.get(stage)
        change = None if before is None or value is None else value - before
        rows.append(Step(stage, value, change, BAD_CALIBRATION if blamed and stage == "calibrated" else cause))
        before = value
    return tuple(rows)


def distances(report: ParityReport) -> dict[str, str]:
    """By output, `calibrated 20.1 dB (cosine 0.9951), ...`: signal to noise and cosine of every stage that differs from
    float; outputs that none changes are left out.
    """
    found = {}
    for name, output in ({} if report.answers is None else report.answers.outputs).items():
        known = ", ".join(
            f"{stage} {value:.1f} dB" + (f" (cosine {cosine:.4f})" if (cosine := output.cosine[stage]) is not None
                                         else "")
            for stage, value in output.signal_to_noise.items() if value is not None
        )
        found |= {name: known} if known else {}
    return found


def reach_text(report: ParityReport) -> str:
    """What holds for every input, in one line; an empty string where nothing was gone through."""
    if not report.reach:
        return ""
    said = Counter(one.verdict for one in report.reach)
    parting = [one for one in report.reach if one.verdict == "parts"]
    parts = ""
    if parting:
        worst = max(parting, key=lambda one: one.parting / one.inputs)
        steps = max(one.max_lsb for one in parting)
        parts = f", {len(parting)} part from them by {steps} step(s) at most ({worst.name} on most, " \
                f"{worst.parting:,} of {worst.inputs:,} {worst.over})"
    full = [one.bound / one.limit for one in report.reach if one.bound is not None and one.limit]
    room = f"; the largest sum takes {100 * max(full):.2g} % of what the target adds in" if full else ""
    left = f", {said['open']} are not gone through" if said["open"] else ""
    equal = f"{said['equal']} of {len(report.reach)} tensors have exact arithmetic's codes for every input"
    return f"{equal}{parts}{left}{room}"


def level_note(level: LevelReport) -> str:
    """What stands after the name of an optimisation level that fails no build; an empty string for others."""
    return "" if level.gated else " (float kernels, not gated)"


def kernels_text(integer_ops: dict[str, Any]) -> str:
    """How many of the runtime's kernels compute in integers."""
    return f"{integer_ops['integer']} integer, {integer_ops['float']} float"


def float_kernels(integer_ops: dict[str, Any]) -> list[str]:
    """One line for each kernel that computes in float, with the reason."""
    return [f"float: {name}: {reason}" for name, reason in (integer_ops.get("reasons") or {}).items()]
