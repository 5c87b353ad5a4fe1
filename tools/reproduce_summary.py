"""From recorded cells to what a table says: mean and spread over seeds, what is required and whether it was reached."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from reproduce_cell import record_path
from reproduce_plan import BEST_LOSES, Cell, Group, Line, Required, cells_of

from pipeline.errors import CompileError
from pipeline.recipe import load_recipe

MAKING = "make images"  # the stage of `compile.py`
NOISE = 2.0  # standard errors of the difference of two means

Records = Mapping[Cell, Mapping[str, Any]]


@dataclass(frozen=True)
class Summary:
    """What the recorded cells of one line say together.

    Args:
        top1: of the artifacts, by seed, %; only of cells that were measured.
        float_top1: of the float network; None while nothing was measured.
        cpu_s: CPU seconds of calibration, by seed; of making the images as well, where they are made.
        images_s: the part of it in which images were made, by seed; 0 where they are read.
        last_epoch: what the first seed measured in the last epoch of what was trained as a whole, by what that was.
        places: where and by which code the cells were measured.
        undecided: mean share of rounding variables that training left undecided; None where nothing is trained.
        kept_nearest, units: over all cells: units that kept nearest rounding, and how many there are.
        differing: codes and logits in which artifact and integer arithmetic differ at the deployed level, all cells.
        compared: codes that were compared there.
        errors: of cells that failed.
    """

    line: Line
    top1: tuple[float, ...]
    float_top1: float | None
    cpu_s: tuple[float, ...]
    images_s: tuple[float, ...]
    undecided: float | None
    kept_nearest: int
    units: int
    differing: int
    compared: int
    errors: tuple[str, ...]
    last_epoch: Mapping[str, Mapping[str, Any]]
    places: frozenset[str]

    @property
    def complete(self) -> bool:
        """Every seed of the plan was measured."""
        return len(self.top1) == len(self.line.seeds)

    @property
    def mean(self) -> float:
        """Mean top-1 of the artifacts, %."""
        return statistics.fmean(self.top1)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; 0 where there is one."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0

    @property
    def seconds(self) -> float:
        """Mean CPU seconds of calibration."""
        return statistics.fmean(self.cpu_s)


def read_records(out: Path, groups: Sequence[Group]) -> dict[Cell, dict[str, Any]]:
    """Records of the plan's cells, also of those that failed; absent ones are left out, and so are those of a recipe
    that has since changed.
    """
    found = {}
    for cell in cells_of(tuple(groups)):
        path = record_path(out, cell)
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["error"] is not None or record["recipe"]["sha256"] == _recipe_sha256(cell):
                found[cell] = record
    return found


@cache
def _recipe_sha256(cell: Cell) -> str | None:
    try:
        return load_recipe(cell.recipe, cell.edits).sha256
    except CompileError:
        return None


def summarize(line: Line, records: Records) -> Summary:
    """A line of the plan from whatever was recorded of it."""
    known = [records[cell] for cell in line.cells if cell in records]
    good = [record for record in known if record["error"] is None]
    undecided = [record["undecided"] for record in good if record["undecided"] is not None]
    return Summary(
        line,
        tuple(record["accuracy"]["artifact"] for record in good),
        good[0]["accuracy"]["float"] if good else None,
        tuple(sum(_cpu_s(record, phase) for phase in (MAKING, "calibrate")) for record in good),
        tuple(_cpu_s(record, MAKING) for record in good),
        statistics.fmean(undecided) if undecided else None,
        sum(record["kept_nearest"] for record in good),
        sum(len(record["units"]) for record in good),
        sum(record["proof"]["differing"] + record["proof"]["logits_differing"] for record in good),
        sum(record["proof"]["compared"] for record in good),
        tuple(record["error"] for record in known if record["error"] is not None),
        good[0]["last_epoch"] if good else {},
        frozenset(_place(record) for record in good),
    )


def _cpu_s(record: Mapping[str, Any], phase: str) -> float:
    return record["phases"].get(phase, {"cpu_s": 0.0})["cpu_s"]


def _place(record: Mapping[str, Any]) -> str:
    machine, versions = record["machine"], record["versions"]
    return f"{machine['cpu']}, {machine['cores']} cores, torch {versions['torch']}, code {record['code'][:12]}"


@dataclass(frozen=True)
class Verdict:
    """A limit in words, and whether it holds; None while something it needs was not measured."""

    limit: str
    met: bool | None

    @property
    def word(self) -> str:
        """`met`, `missed` or a dash."""
        return "–" if self.met is None else "met" if self.met else "missed"


def judge(required: Required, own: Summary, records: Records) -> list[Verdict]:
    """One verdict for every field of `required`."""
    verdicts = []
    if required.least is not None:
        met = own.mean >= required.least if own.complete else None
        verdicts.append(Verdict(f">= {required.least:.1f}", met))
    if required.below_float is not None:
        met = own.float_top1 - own.mean <= required.below_float if own.complete else None
        verdicts.append(Verdict(f"<= {required.below_float:.1f} points below float", met))
    if required.above is not None:
        other = summarize(required.above, records)
        met = own.mean > other.mean + required.margin if own.complete and other.complete else None
        margin = f" by {required.margin:g} points" if required.margin else ""
        verdicts.append(Verdict(f"> {_told(required.above, own.line)}{margin}{_mean_text(other)}", met))
    if required.within is not None:
        line, points = required.within
        other = summarize(line, records)
        met = other.mean - own.mean <= points if own.complete and other.complete else None
        verdicts.append(Verdict(f"<= {points:g} points below {_told(line, own.line)}{_mean_text(other)}", met))
    if required.images_s is not None:
        met = max(own.images_s) <= required.images_s if own.complete else None
        text = f" (took {max(own.images_s):.0f})" if own.complete else ""
        verdicts.append(Verdict(f"images in <= {required.images_s:g} s of one core{text}", met))
    if required.cost is not None:
        base, times = required.cost
        other = summarize(base, records)
        ready = own.complete and other.complete
        ratio = own.seconds / other.seconds if ready else None
        text = "" if ratio is None else f" (is {ratio:.2f}x)"
        verdicts.append(Verdict(f"<= {times:g}x {base.method}'s time{text}", ratio <= times if ready else None))
    return verdicts


def _told(line: Line, own: Line) -> str:
    """How the line that `own` is compared with is called beside it."""
    if line.method != own.method:
        return line.method
    return "equal bits"


def _mean_text(summary: Summary) -> str:
    return f" ({summary.mean:.2f})" if summary.top1 else ""


@dataclass(frozen=True)
class Step:
    """Two neighbours in the ranking: does the second reach the first?

    Args:
        gain: mean of the better method minus mean of the worse one, points.
        noise: what the difference of two such means is uncertain by.
    """

    worse: str
    better: str
    gain: float
    noise: float

    @property
    def word(self) -> str:
        """`holds`; `within noise` where it is not seen but not refuted either; `fails`."""
        return "holds" if self.gain > 0 else "within noise" if self.gain >= -self.noise else "fails"


def ranking(summaries: Sequence[Summary]) -> list[Step] | None:
    """Neighbouring steps from the worst to the best method; None while one of them is not complete."""
    if not summaries or not all(summary.complete for summary in summaries):
        return None
    steps = []
    for worse, better in pairwise(summaries):
        error = sum(s.deviation ** 2 / len(s.top1) for s in (worse, better)) ** 0.5
        steps.append(Step(worse.line.method, better.line.method, better.mean - worse.mean, NOISE * error))
    return steps


def best_lines(groups: Sequence[Group], records: Records) -> dict[tuple[str, str], list[Summary]]:
    """Complete lines of all groups by (network, bits), the best mean first, each experiment once."""
    lines = dict.fromkeys(line for group in groups for line in group.lines)
    by_cells = {tuple(line.cells): line for line in lines}
    found: dict[tuple[str, str], list[Summary]] = {}
    for line in by_cells.values():
        summary = summarize(line, records)
        if line.bits and summary.complete:
            found.setdefault((line.subject, line.bits), []).append(summary)
    return {place: sorted(summaries, key=lambda s: -s.mean) for place, summaries in found.items()}


def best_verdict(place: tuple[str, str], winner: Summary) -> Verdict | None:
    """Whether the best recipe loses little enough; None where nothing is required."""
    if place not in BEST_LOSES:
        return None
    return judge(Required(below_float=BEST_LOSES[place]), winner, {})[0]
