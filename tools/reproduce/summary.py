"""From recorded cells to what a table says: mean and spread over seeds, differences between methods and their noise."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import CompileError
from isobit.pipeline.recipe.file import load_recipe
from tools.reproduce.cell import record_path
from tools.reproduce.plan import Cell, Group, Line, cells_of

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
class Step:
    """Two neighbours in the ranking, and by how much the second leads.

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
        """`better` or `worse`, where the gain is larger than its noise; else `within noise`."""
        return "within noise" if abs(self.gain) <= self.noise else "better" if self.gain > 0 else "worse"


def ranking(summaries: Sequence[Summary]) -> list[Step] | None:
    """Neighbouring steps from the worst to the best method; None while one of them is not complete."""
    if not summaries or not all(summary.complete for summary in summaries):
        return None
    steps = []
    for worse, better in pairwise(summaries):
        error = sum(s.deviation ** 2 / len(s.top1) for s in (worse, better)) ** 0.5
        steps.append(Step(worse.line.method, better.line.method, better.mean - worse.mean, NOISE * error))
    return steps
