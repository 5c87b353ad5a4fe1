"""The tables of the benches in Markdown, and their place in docs/performance.md.

A table stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`; only what is between the marks is replaced.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_rows import FLOAT, SUBJECT_TITLES, judged_rows

from pipeline.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def command_text(script: str, arguments: Sequence[str]) -> str:
    """A command line as a document may show it: paths are relative to the checkout, whosever machine it was."""
    shown = [os.path.relpath(argument, ROOT) if os.path.isabs(argument) else argument for argument in arguments]
    return shlex.join([script, *shown])


def fill(
    text: str, tables: Mapping[str, str], mark: str = "bench", document: str = "docs/performance.md",
    names: Collection[str] | None = None,
) -> str:
    """`text` with every table put between its marks.

    Args:
        mark: what the marks of the document begin with.
        document: for messages.
        names: of all marks that the document has; None where `tables` has them all. What has no table stays as it is.

    Raises:
        InputError: the text has no marks for a table, or marks for a table that does not exist.
    """
    marks, known = set(re.findall(rf"<!-- {mark}:(\w+) -->", text)), {*tables, *(names or ())}
    if marks != known:
        odd = ", ".join(sorted(marks ^ known))
        raise InputError(f"the document and the benches do not agree on: {odd}", where=document,
                         allowed=f"marks for {', '.join(sorted(known))}")
    for name, table in tables.items():
        pattern = rf"(<!-- {mark}:{name} -->\n).*?(<!-- /{mark}:{name} -->)"
        text, count = re.subn(pattern, lambda found, t=table: f"{found[1]}{t}\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise InputError(f"the mark '{name}' is not closed, or stands twice", where=document)
    return text


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Every table of docs/performance.md by the name of its mark."""
    return {
        "machine": _machine(results),
        "judged": markdown(("what", "limit", "measured", ""),
                           [(row.what, row.limit, row.measured, row.verdict) for row in judged_rows(results)]),
        "builds": markdown(BUILD_COLUMNS, build_rows(results)),
        "latency": markdown(LATENCY_COLUMNS, latency_rows(results)),
        "calibration": _calibration(results.get("calibration")),
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


BUILD_COLUMNS = ("network", "recipe", "steps", "seed", "float", "calibrated", "reference", "artifact", "kB",
                 "codes compared / differing: all", "extended", "basic", "disabled")


def build_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line per build: the four accuracies, size, codes at every level."""
    rows = []
    for build in results.get("builds", {}).values():
        levels = {level["level"]: f"{level['compared']:,} / {level['differing']:,}" for level in build["levels"]}
        accuracy = ["–" if build["accuracy"][stage] is None else f"{build['accuracy'][stage]:.2f}"
                    for stage in ("float", "calibrated", "reference", "artifact")]
        rows.append((SUBJECT_TITLES[build["subject"]], build["recipe"], str(build["steps"]), str(build["seed"]),
                     *accuracy, f"{build['model_bytes'] / 1000:.1f}",
                     *(levels.get(level, "–") for level in ("all", "extended", "basic", "disabled"))))
    return rows


LATENCY_COLUMNS = ("network", "file", "kB", "ms", "over float", "quartiles")


def latency_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line per network and contender."""
    rows = []
    for subject, measured in results.get("latency", {}).items():
        for title, figures in measured["contenders"].items():
            low, median, high = figures["speed_over"][FLOAT]
            rows.append((SUBJECT_TITLES[subject], title, f"{figures['bytes'] / 1000:.1f}", f"{figures['ms'][1]:.3f}",
                         f"{median:.2f}x", f"{low:.2f} – {high:.2f}"))
    return rows


def _machine(results: Mapping[str, Any]) -> str:
    runs = results.get("runs", {})
    if not runs:
        return "Not measured yet."
    columns = ("section", "CPU", "cores", "load before", "versions", "command")
    return markdown(columns, [
        (section, run["cpu"], str(run["cores"]), f"{run['load']:.1f}", run["versions"], f"`{run['command']}`")
        for section, run in runs.items()
    ])


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if not calibration:
        return "Not measured yet."
    rows = [(str(run["steps"]), f"{run['ours_s']:.2f}", f"{run['literal_s']:.2f}") for run in calibration["runs"]]
    total = (f"1,000 ({calibration['how']})", f"{calibration['ours_s']:.1f}", f"{calibration['literal_s']:.1f}")
    return markdown(("steps a unit", "ours, CPU s", "literal, CPU s"), [*rows, total])
