"""From the rows of a sweep's index to what a line says: mean and spread over seeds, time, proof; how methods rank."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from isobit.pipeline.recipe.file import load_recipe
from isobit.sweep.results import DONE, FAILED, Row
from tools.reproduce.experiments import Cell, Group, Line, cells_of
from tools.reproduce.study import TARGET, model_of

MAKING, CALIBRATION = "make images", "calibrate"  # stages of a build
NOISE = 2.0  # standard errors of the difference of two means

Records = Mapping[Cell, Row]


def read_records(index: Path, groups: Sequence[Group]) -> dict[Cell, Row]:
    """Rows of the plan's cells that are done or failed; nothing where there is no index."""
    lines = index.read_text(encoding="utf-8").splitlines() if index.is_file() else []
    rows = [Row(**{**said, "edits": tuple(said["edits"])}) for said in map(json.loads, lines)]
    by_cell = {(row.model, row.recipe, row.edits, row.seed): row for row in rows
               if row.target == TARGET and row.status in (DONE, FAILED)}
    found = {}
    for cell in cells_of(tuple(groups)):
        key = model_of(cell), _name(cell.recipe, cell.sets), cell.sets, cell.seed
        if key in by_cell:
            found[cell] = by_cell[key]
    return found


@cache
def _name(recipe: str, edits: tuple[str, ...]) -> str:
    """What a recipe is called after its edits: the name follows its bits."""
    return load_recipe(recipe, edits).name


def figures(line: Line, records: Records) -> dict[str, Any]:
    """What the cells of a line say together, as docs/results.json has it; `measured` is 0 where none was measured."""
    known = [records[cell] for cell in line.cells if cell in records]
    rows = [row for row in known if row.status == DONE and row.value is not None]
    failed = {cell.id: records[cell].error for cell in line.cells if cell in records and records[cell].error}
    said: dict[str, Any] = {"measured": len(rows)}
    if failed:
        first, error = next(iter(failed.items()))
        said["failed"] = {"cells": len(failed), "first": first, "error": " ".join(error.split())}
    return said | (_measured(rows) if rows else {})


def _measured(rows: Sequence[Row]) -> dict[str, Any]:
    top1, of_float = [row.value or 0.0 for row in rows], rows[0].accuracy["float"] or 0.0
    timed = [row.cpu_seconds for row in rows if CALIBRATION in row.cpu_seconds]
    undecided = [row.undecided for row in rows if row.undecided is not None]
    images = max((seconds.get(MAKING, 0.0) for seconds in timed), default=0.0)
    return {
        "float": round(of_float, 2), "top1": round(statistics.fmean(top1), 2),
        "deviation": round(statistics.stdev(top1), 2) if len(top1) > 1 else 0.0,
        "lowest": round(min(top1), 2), "highest": round(max(top1), 2),
        "below_float": round(of_float - statistics.fmean(top1), 2),
        "undecided_percent": round(100 * statistics.fmean(undecided), 2) if undecided else None,
        "kept_nearest": sum(row.kept_nearest or 0 for row in rows), "units": sum(row.units or 0 for row in rows),
        "cpu_s": round(statistics.fmean(each[CALIBRATION] + each.get(MAKING, 0.0) for each in timed), 1)
        if timed else None,
        **({"images_cpu_s": round(images)} if images else {}),
        "compared": sum(row.compared or 0 for row in rows), "differing": sum(row.differing or 0 for row in rows),
        "measured_on": sorted({f"{row.machine}, torch {row.packages.get('torch')}, code {row.code}" for row in rows}),
    }


def ranking(lines: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Neighbouring steps from the worst method to the best; none while a line is not complete.

    `gain` is the better mean minus the worse one, points; `noise` what such a difference is uncertain by; `word` says
    `better` or `worse` where the gain is larger than that.

    Args:
        lines: of `methods`, in their order.
    """
    if not lines or any("top1" not in line or line["measured"] < line["seeds"] for line in lines):
        return []
    steps = []
    for (worse, better), (low, high) in zip(pairwise(methods), pairwise(lines), strict=True):
        gain = high["top1"] - low["top1"]
        noise = NOISE * sum(line["deviation"] ** 2 / line["measured"] for line in (low, high)) ** 0.5
        word = "within noise" if abs(gain) <= noise else "better" if gain > 0 else "worse"
        steps.append({"network": low["network"], "bits": low["bits"], "worse": worse, "better": better,
                      "gain": round(gain, 2), "noise": round(noise, 2), "word": word})
    return steps
