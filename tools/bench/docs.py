"""docs/performance.json from the results of `bench.py`, and the tables of docs/performance.md from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.bench.rows import (
    FLOAT,
    NOT_MEASURED,
    STATIC_BEST,
    STATIC_DEFAULT,
    SUBJECT_TITLES,
    W4A4,
    W4A8,
    W8A8,
    summary_rows,
)
from tools.documents import markdown

STAGES = ("float", "calibrated", "reference", "artifact")
LEVELS = ("all", "extended", "basic", "disabled")
BUILD_COLUMNS = ("network", "recipe", "top-1, %", "kB", "codes differing", "at basic, disabled")
LATENCY_COLUMNS = ("network", "float, ms", STATIC_DEFAULT, STATIC_BEST, W8A8, W4A8, W4A4)
CALIBRATION_COLUMNS = ("processor", "steps a unit", "ours, CPU s", "literal, CPU s", "step, literal over ours")
LOOPS = ("ours_s", "literal_s")
NOT_YET = "Not measured yet."
ABOUT = "Every number of tools/bench/bench.py; docs/performance.md shows a part."
FIELDS = {
    "load": "of the machine before the section ran",
    "float, calibrated, reference, artifact": "top-1 in %; between them: what the method loses, what the target's "
                                              "arithmetic changes, parity",
    "codes": "compared and differing, by optimisation level",
    "speed_over_float": "lower quartile, median and upper quartile over rounds",
}
_DASH = "–"


def numbers(results: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What docs/performance.json holds: a build, a contender, a run of the calibration in a line each.

    Args:
        results: what `bench.json` holds.
        kept: what the file held before; sections that `results` does not have stay as they were, and so does its
            `by_hand`, output of other commands.
    """
    kept, runs = kept or {}, results.get("runs", {})
    measured = {
        "rows": _rows(results, kept),
        "builds": [_build(build) for build in results.get("builds", {}).values()],
        "latency": [
            _contender(subject, title, figures) for subject, measured in results.get("latency", {}).items()
            for title, figures in measured["contenders"].items()
        ],
        "calibration": _calibration_numbers(results.get("calibration"), kept.get("calibration") or []),
    }
    before = [run for run in kept.get("runs", []) if run["section"] not in runs]
    return {
        "about": ABOUT,
        "fields": FIELDS,
        "runs": before + [{"section": section, **run} for section, run in runs.items()],
        **{section: found or kept.get(section, found) for section, found in measured.items()},
        "by_hand": kept.get("by_hand", []),
    }


def _rows(results: Mapping[str, Any], kept: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every row of the summary; one that is not measured now stays as it was."""
    before = {row["what"]: row for row in kept.get("rows", [])}
    return [before.get(row.what, row.to_json()) if row.measured == NOT_MEASURED else row.to_json()
            for row in summary_rows(results)]


def _build(build: Mapping[str, Any]) -> dict[str, Any]:
    """A build: top-1 in % after each stage, size, and [compared, differing] codes at each optimisation level."""
    return {
        "network": build["subject"], **{name: build[name] for name in ("recipe", "steps", "seed")},
        **{stage: None if build["accuracy"][stage] is None else round(build["accuracy"][stage], 2) for stage in STAGES},
        "kb": round(build["model_bytes"] / 1000, 1),
        "codes": {level["level"]: [level["compared"], level["differing"]] for level in build["levels"]},
    }


def _contender(subject: str, title: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A file: size, median milliseconds, speed over the float file as [lower quartile, median, upper quartile]."""
    return {
        "network": subject, "file": title, "kb": round(figures["bytes"] / 1000, 1), "ms": round(figures["ms"][1], 3),
        "speed_over_float": [round(ratio, 2) for ratio in figures["speed_over"][FLOAT]],
    }


def _calibration_numbers(
    calibration: Mapping[str, Any] | None, kept: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """An entry for each processor; one that is measured now replaces its earlier one."""
    if not calibration:
        return list(kept)
    runs = [{"steps": run["steps"], "ours_s": round(run["ours_s"], 2), "literal_s": round(run["literal_s"], 2)}
            for run in calibration["runs"]]
    total = {"steps": 1000, "ours_s": round(calibration["ours_s"], 1), "literal_s": round(calibration["literal_s"], 1)}
    found = {
        "processor": calibration["processor"], "runs": runs, "at_1000": {**total, "how": calibration["how"]},
        "step_ratio": None if calibration["step_ratio"] is None else round(calibration["step_ratio"], 2),
    }
    return [entry for entry in kept if entry["processor"] != found["processor"]] + [found]


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Every table of docs/performance.md by the name of its mark; `found` is what docs/performance.json holds."""
    return {
        "machine": _machine(found["runs"]),
        "builds": markdown(BUILD_COLUMNS, build_rows(found)),
        "latency": markdown(LATENCY_COLUMNS, latency_rows(found)),
        "calibration": _calibration(found["calibration"]),
    }


def build_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line for each build; levels that use the same kernels share a column."""
    return [
        (SUBJECT_TITLES[build["network"]], build["recipe"], _percent(build["artifact"]), f"{build['kb']:.1f}",
         _differing(build["codes"], LEVELS[:2]), _differing(build["codes"], LEVELS[2:]))
        for build in found["builds"]
    ]


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2f}"


def _differing(codes: Mapping[str, Sequence[int]], levels: Sequence[str]) -> str:
    counts = dict.fromkeys(f"{codes[level][1]:,}" for level in levels if level in codes)
    return " / ".join(counts) or _DASH


def latency_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line for each network: milliseconds of the float file, and each other file's time over the float file's."""
    files: dict[str, dict[str, Mapping[str, Any]]] = {}
    for entry in found["latency"]:
        files.setdefault(entry["network"], {})[entry["file"]] = entry
    return [
        (SUBJECT_TITLES[network], f"{entries[FLOAT]['ms']:.3f}", *(_time(entries.get(n)) for n in LATENCY_COLUMNS[2:]))
        for network, entries in files.items()
    ]


def time_over_float(entry: Mapping[str, Any]) -> float:
    """The median time of a file over the float file's: less is faster. Records keep its inverse."""
    return 1 / float(entry["speed_over_float"][1])


def _time(entry: Mapping[str, Any] | None) -> str:
    return _DASH if entry is None else f"{time_over_float(entry):.2f}"


def _machine(runs: Sequence[Mapping[str, Any]]) -> str:
    """One row for sections that one command measured on one machine."""
    sections: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        place = (f"{run['cpu']}, {run['cores']} cores", run["versions"], f"`{run['command']}`")
        sections.setdefault(place, []).append(run["section"])
    rows = [(", ".join(names), *place) for place, names in sections.items()]
    return markdown(("section", "CPU", "versions", "command"), rows) if runs else NOT_YET


def _calibration(calibration: Sequence[Mapping[str, Any]]) -> str:
    """A line for each processor: its runs, the time that they give for 1,000 steps, a literal step over one of ours."""
    rows = []
    for entry in calibration:
        runs, last = entry["runs"], entry["at_1000"]
        times = [" ".join([*(f"{run[name]:.2f}" for run in runs), f"{last[name]:.1f}"]) for name in LOOPS]
        steps = " ".join([*(str(run["steps"]) for run in runs), f"{last['steps']:,}"])
        ratio = _DASH if entry["step_ratio"] is None else f"{entry['step_ratio']:.2f}x"
        rows.append((entry["processor"], f"{steps} ({last['how'].partition(' ')[0]})", *times, ratio))
    return markdown(CALIBRATION_COLUMNS, rows) if rows else NOT_YET
