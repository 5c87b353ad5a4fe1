"""Both forms of the ONNX file at all four optimisation levels: how many codes and logits differ, and the file's size.

The table of docs/onnx.md. ResNet-20 with min-max ranges and nearest rounding at four bit widths; the numbers that a
method would learn change nothing here, because every level is compared with the integer arithmetic of the same file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from isobit import build as story
from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.calib.calibrate import calibrate
from isobit.pipeline.errors import CompileError, ExitCode, InputError
from isobit.pipeline.proof.parity import LevelReport, compare
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Reference
from tools.bench.rows import RESNET
from tools.bench.subjects import Subject, trained
from tools.documents import command_text, markdown
from tools.processor import cpu_name
from tools.publish import publish

DOCUMENT = ROOT / "docs" / "onnx.md"
FORMS = ("onnx", "onnx-qoperator")
BITS = ("w8a8", "w4a4", "w3a3", "w2a2")


@dataclass(frozen=True)
class Row:
    """One file at one level."""

    bits: str
    target: str
    size: int
    gated: bool
    report: LevelReport


def recipe_of(bits: str) -> Recipe:
    """The shipped recipe of these bits with ranges from the extremes and nearest rounding."""
    if bits == "w8a8":
        return load_recipe("minmax_w8a8")
    edits = ["method={name: nearest}", "weights.range=minmax", "activations.range=minmax"]
    return load_recipe(f"qdrop_{bits}", edits)


def measure(subject: Subject, bits: str, samples: int) -> Iterator[Row]:
    """Build both forms of one network at one bit width, and compare them at every level on the same samples."""
    recipe = recipe_of(bits)
    calibration = subject.calibration(recipe.images.count, recipe.seed)
    quantized = story.plan(subject.load(), recipe, BACKENDS.get(FORMS[0]), calibration.example)
    reference, _ = passes.legalize(calibrate(quantized, calibration.materialize()[0]))
    for target in FORMS:
        yield from _levels(reference, target, bits, subject, samples)


def _levels(reference: Reference, target: str, bits: str, subject: Subject, samples: int) -> list[Row]:
    backend = BACKENDS.get(target)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backend.emit(reference, folder)
        size = (folder / backend.model_file).stat().st_size
        sessions = {level: backend.open(folder, level) for level in backend.levels}
        batches = subject.evaluation().first(samples)
        stages = {"float": reference.quantized.captured.graph}
        report = compare(batches, stages, backend.arithmetic(reference), sessions, gated=backend.gated_levels)
    return [Row(bits, target, size, level.gated, level) for level in report.levels]


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of a Markdown table; neighbouring levels with the same counts share one."""
    for (bits, target, size, gated, counts), group in groupby(rows, _shown):
        levels = ", ".join(row.report.level for row in group) + ("" if gated else " (not gated)")
        yield f"| {bits} | {target} | {size:,} | {levels} | {counts} |"


def numbers(rows: Iterable[Row], samples: int, command: str) -> dict[str, Any]:
    """What docs/levels.json holds: a file at one level in a line; `largest` is the largest step between two codes."""
    return {
        "about": "Every file and level of tools/check/levels.py; docs/onnx.md shows a part.", "command": command,
        "cpu": cpu_name(), "onnxruntime": version("onnxruntime"), "samples": samples,
        "files": [
            {"bits": row.bits, "target": row.target, "bytes": row.size, "level": row.report.level,
             "compared": row.report.codes.compared, "differing": row.report.codes.differing,
             "largest": row.report.codes.max_lsb, "logits_differing": row.report.logits_differing}
            for row in rows
        ],
    }


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The table of docs/onnx.md: a row for each bit width, what differs at each group of levels."""
    files = content["files"]
    rows = []
    for bits in dict.fromkeys(file["bits"] for file in files):
        found = [file for file in files if file["bits"] == bits]
        one, other = ([file for file in found if file["target"] == target] for target in FORMS)
        rows.append((bits, f"{one[0]['bytes']:,}", _worst(one, ("all", "extended")),
                     _worst(one, ("basic", "disabled")), f"{other[0]['bytes']:,}", _worst(other, ())))
    columns = ("bits", "`onnx`, bytes", "`all`, `extended`", "`basic`, `disabled`", "`onnx-qoperator`, bytes",
               "every level")
    compared = ", ".join(sorted({f"{file['compared']:,}" for file in files}))
    said = (f"ResNet-20, {content['samples']} validation images, ONNX Runtime {content['onnxruntime']}, "
            f"{content['cpu']}; differing codes of {compared}:")
    return {"files": f"{said}\n\n{markdown(columns, rows)}"}


def _worst(files: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> str:
    """The most that differs at one of `levels` (at any, where none is named)."""
    file = max((file for file in files if not levels or file["level"] in levels), key=lambda file: file["differing"])
    if not file["differing"]:
        return "0"
    share = 100 * file["differing"] / file["compared"]
    return f"{file['differing']:,} ({share:.3f} %), up to {file['largest']} step{'s' if file['largest'] > 1 else ''}"


def _shown(row: Row) -> tuple[str, str, int, bool, str]:
    codes = row.report.codes
    share = 100 * codes.differing / codes.compared
    counts = (f"{codes.compared:,} | {codes.differing:,} ({share:.3f} %) | {codes.max_lsb} | "
              f"{row.report.logits_differing:,}")
    return row.bits, row.target, row.size, row.gated, counts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a gated level differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--bits", nargs="+", choices=BITS, default=BITS)
    parser.add_argument("--write-docs", action="store_true", help="write docs/levels.json and the table of onnx.md")
    options = parser.parse_args(arguments)
    print("| bits | target | bytes | level | codes compared | differing | largest, steps | logits differing |")
    print("|---|---|---|---|---|---|---|---|")
    found: list[Row] = []
    try:
        subjects = trained(options.data)
        if RESNET not in subjects:
            raise InputError(f"no {RESNET} in {options.data}", hint="give the folder of the trained models by --data")
        for bits in options.bits:
            rows = list(measure(subjects[RESNET], bits, options.samples))
            print(*lines(rows), sep="\n", flush=True)
            found += rows
    except CompileError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.write_docs:
        command = command_text("tools/check/levels.py", arguments if arguments is not None else sys.argv[1:])
        content = numbers(found, options.samples, command)
        publish(DOCUMENT, content, tables(content), "levels", numbers=DOCUMENT.with_name("levels.json"))
    failed = any(row.gated and row.report.codes.differing + row.report.logits_differing for row in found)
    return ExitCode.GATE_FAILED if failed else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
