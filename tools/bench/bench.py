"""Measures accuracy, size, parity, latency and calibration time of the shipped recipes; prints it, keeps it as JSON.

`make bench`, or `python tools/bench/bench.py --only latency`: a section that is not asked for keeps its earlier numbers
in `build/bench.json`. `--quick` is a smoke run: few steps, few samples, a file of its own, numbers without meaning.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch
from rich.console import Console
from rich.table import Table

from isobit.pipeline.artifact.manifest import package_versions
from tools.bench import builds as bench_builds
from tools.bench import calibration as bench_calibration
from tools.bench import docs as bench_docs
from tools.bench import latency as bench_latency
from tools.bench.rows import DS_CNN, RESNET, SUBJECT_TITLES, W4A4, W4A8, W8A8, summary_rows
from tools.bench.subjects import Subject, random_weights, trained
from tools.documents import command_text, read_json
from tools.processor import cpu_name
from tools.publish import publish

SECTIONS = ("accuracy", "size", "parity", "latency", "calibration")
FROM_BUILDS = {"accuracy", "size", "parity"}
RECIPES = ("qdrop_w8a8", "nearest_w8a8", "qdrop_w4a8", "qdrop_w4a4", "qdrop_w3a3", "qdrop_w2a4", "qdrop_w2a2")
TIMED = {W8A8: "qdrop_w8a8", W4A8: "qdrop_w4a8", W4A4: "qdrop_w4a4"}
ROUNDS = 31
QUICK_STEPS, QUICK_ROUNDS, QUICK_IMAGES, QUICK_SIZE = 5, 2, 32, 64


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.quick:
        console.print("Smoke run: few steps, few samples. It shows that the benches run; its numbers mean nothing.")
    torch.set_num_threads(options.threads)
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    results["smoke"] = options.quick
    subjects = trained(options.data, options.quick)
    for name in (RESNET, DS_CNN):
        if name not in subjects:
            console.print(f"{SUBJECT_TITLES[name]}: not measured, it is not found below {options.data} (--data)")
    run_sections(options, subjects, results, console)
    compat = options.out.parent / "compat.json"
    if compat.is_file():
        results["compat"] = json.loads(compat.read_text(encoding="utf-8"))
    results["rows"] = [row.to_json() for row in summary_rows(results)]
    _save(results, options.out)
    show(results, console)
    console.print(f"{options.out} holds all numbers")
    if options.write_docs and not options.quick:
        document = ROOT / "docs" / "performance.md"
        found = bench_docs.numbers(results, read_json(document.with_suffix(".json")))
        publish(document, found, bench_docs.tables(found), parts=True)
        console.print(f"{document.relative_to(ROOT)} and its JSON: written")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, with the values that a smoke run replaces."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SECTIONS),
                        help=f"sections, separated by commas: {', '.join(SECTIONS)}; none: print what is there")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--steps", type=int, default=1000, help="of reconstruction, per unit")
    parser.add_argument("--seeds", type=_integers, default=[1005])
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=list(RECIPES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the latency measurement")
    parser.add_argument("--calibration-steps", type=_integers, default=[50, 150],
                        help="at which the two loops are timed; the last two are extended to 1,000")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, for the builds")
    parser.add_argument("--quick", action="store_true", help="smoke run")
    parser.add_argument("--fresh", action="store_true", help="build again what is kept from earlier runs")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.json and .md")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    unknown = set(options.only) - {*SECTIONS, "none"}
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if options.quick:
        options.steps, options.rounds, options.calibration_steps = QUICK_STEPS, QUICK_ROUNDS, [2, 4]
    options.out = (options.out or ROOT / "build" / ("bench-smoke.json" if options.quick else "bench.json")).resolve()
    options.folder = options.out.parent / options.out.stem
    given = arguments if arguments is not None else sys.argv[1:]
    options.command = command_text("tools/bench/bench.py", given)
    return options


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def run_sections(
    options: argparse.Namespace, subjects: dict[str, Subject], results: dict[str, Any], console: Console
) -> None:
    """Run what was asked for; results are saved as they come, so that an interrupted run loses little."""
    settings = bench_builds.Settings(
        options.folder, options.steps, QUICK_IMAGES if options.quick else None, options.fresh
    )
    if FROM_BUILDS & set(options.only):
        _note_run(results, "accuracy, parity, size", options)
        for subject in subjects.values():
            for seed in options.seeds:
                for recipe in options.recipes:
                    _build(results, subject, recipe, seed, settings, options, console)
    if "latency" in options.only:
        _note_run(results, "latency", options)
        _latency(results, subjects, settings, options, console)
    if "calibration" in options.only and RESNET in subjects:
        _note_run(results, "calibration", options)
        console.print("calibration: ours and the literal loop ...")
        images = QUICK_IMAGES if options.quick else None
        results["calibration"] = bench_calibration.measure(
            subjects[RESNET], options.seeds[0], options.calibration_steps, images
        )
        _save(results, options.out)


def _build(
    results: dict[str, Any], subject: Subject, recipe: str, seed: int, settings: bench_builds.Settings,
    options: argparse.Namespace, console: Console,
) -> dict[str, Any]:
    record = bench_builds.build(subject, recipe, seed, settings)
    results.setdefault("builds", {})[f"{subject.name}/{recipe}/{seed}"] = record
    how = "kept from an earlier run" if record["reused"] else f"{record['cpu_s']:.0f} s of CPU time"
    console.print(f"{subject.name} {recipe} seed {seed}: artifact {record['accuracy']['artifact']} %, "
                  f"gate {'passed' if record['passed'] else 'FAILED'}, {how}")
    _save(results, options.out)
    return record


def _latency(
    results: dict[str, Any], subjects: dict[str, Subject], settings: bench_builds.Settings,
    options: argparse.Namespace, console: Console,
) -> None:
    files = options.folder / "latency"
    for subject in subjects.values():
        ours = {}
        for title, recipe in TIMED.items():
            record = _build(results, subject, recipe, options.seeds[0], settings, options, console)
            ours[title] = settings.folder / record["artifact"] / "model.onnx"
        images = QUICK_IMAGES if options.quick else bench_latency.STATIC_IMAGES
        measured = bench_latency.measure(subject, ours, files, options.rounds, images=images)
        results.setdefault("latency", {})[subject.name] = measured
        _save(results, options.out)
    few = bench_builds.Settings(options.folder, images=4, fresh=options.fresh)
    for subject in random_weights(options.folder, QUICK_SIZE if options.quick else 224).values():
        record = bench_builds.build(subject, bench_builds.LATENCY_RECIPE, options.seeds[0], few)
        ours = {W8A8: few.folder / record["artifact"] / "model.onnx"}
        measured = bench_latency.measure(subject, ours, files, options.rounds, images=4)
        results.setdefault("latency", {})[subject.name] = measured
        console.print(f"{subject.name}: timed, gate {'passed' if record['passed'] else 'FAILED'}")
        _save(results, options.out)


def show(results: dict[str, Any], console: Console) -> None:
    """Print what a user asks, and builds and latencies."""
    found = bench_docs.numbers(results)
    for title, columns, rows in (
        ("Summary", ("what", "measured"), [(row["what"], row["measured"]) for row in found["rows"]]),
        ("Builds", bench_docs.BUILD_COLUMNS, bench_docs.build_rows(found)),
        ("Speed over float, one thread, batch 1", bench_docs.LATENCY_COLUMNS, bench_docs.latency_rows(found)),
    ):
        if rows:
            table = Table(*columns, title=title)
            for row in rows:
                table.add_row(*row)
            console.print(table)


def _note_run(results: dict[str, Any], section: str, options: argparse.Namespace) -> None:
    """Where and how a section was measured."""
    versions = package_versions("torch", "onnxruntime", "onnx")
    results.setdefault("runs", {})[section] = {
        "cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "steps": options.steps,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "command": options.command, "code": bench_builds.code_sha256(),
    }


def _save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
