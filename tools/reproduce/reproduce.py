"""Runs the plan of `plan.py` as a study of `isobit sweep`, and writes docs/results.json and results.md from its index.

    python tools/reproduce/reproduce.py --jobs 2              every experiment, then the document
    python tools/reproduce/reproduce.py --groups finish       some of them
    python tools/reproduce/reproduce.py --render              the document alone, from the last index

A run may be interrupted and repeated; cells that are done stay as they are. `OUT/study.yaml` is a study like any
other: `isobit sweep OUT/study.yaml --engine ray --out OUT` and then `--render` is the same. A line that was measured
again with every seed is written from the new cells, all others stay as docs/results.json has them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import typer

from isobit.cli.artifacts.sweep import sweep
from isobit.pipeline.errors import CompileError, ExitCode, InputError
from isobit.sweep.hashes import build_sha256
from isobit.sweep.results import INDEX
from tools.code_state import SHORT, note_state
from tools.documents import fill, read_json, write_json
from tools.reproduce import docs as reproduce_docs
from tools.reproduce import plot as reproduce_plot
from tools.reproduce.content import content
from tools.reproduce.plan import PLAN, Group
from tools.reproduce.study import write_study
from tools.reproduce.summary import read_records

DOCUMENT, NUMBERS, PLOT, MARK = "results.md", "results.json", "results.svg", "reproduce"


def main(arguments: Sequence[str] | None = None, plan: Sequence[Group] = PLAN) -> int:
    """The command line; 1 where a cell failed, 2 where an option or the document is wrong."""
    options = parse(arguments, plan)
    groups = [group for group in plan if options.groups is None or group.name in options.groups]
    try:
        code = 0 if options.render else run(groups, options)
        if not options.list and code in (0, ExitCode.GATE_FAILED):
            render(plan, options)
        return code
    except CompileError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


def parse(arguments: Sequence[str] | None, plan: Sequence[Group]) -> argparse.Namespace:
    """Options, paths made absolute."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [group.name for group in plan if group.lines]
    parser.add_argument("--groups", type=lambda text: text.split(","),
                        help=f"parts of the plan, separated by commas: {', '.join(names)}")
    parser.add_argument("--jobs", type=int, help="cells at a time, one thread each; default: what fits")
    parser.add_argument("--list", action="store_true", help="only print the cells and what is known of them")
    parser.add_argument("--render", action="store_true", help="run nothing")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "reproduce", help="folder of the sweep")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help=f"folder of {DOCUMENT}, {NUMBERS} and {PLOT}")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups or ()) - set(names):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    options.data, options.out, options.docs = (path.resolve() for path in (options.data, options.out, options.docs))
    return options


def run(groups: Sequence[Group], options: argparse.Namespace) -> int:
    """`isobit sweep` on the study of the groups; its exit code."""
    study = write_study(groups, options.data, options.out)
    try:
        sweep(study, out=options.out, jobs=options.jobs, listing=options.list)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def render(plan: Sequence[Group], options: argparse.Namespace) -> None:
    """Write the numbers as JSON, fill the tables of the document from them, draw its plot; the words stay."""
    document, numbers = options.docs / DOCUMENT, options.docs / NUMBERS
    if not document.is_file():
        raise InputError("the document is not there", where=str(document),
                         hint=f"its tables stand between marks, <!-- {MARK}:NAME --> and <!-- /{MARK}:NAME -->")
    records = read_records(options.out / INDEX, plan)
    found = content(plan, records, read_json(numbers))
    filled = fill(document.read_text(encoding="utf-8"), reproduce_docs.tables(plan, found), MARK, DOCUMENT)
    write_json(numbers, found)
    present = build_sha256()[:SHORT]
    if any(row.code == present for row in records.values()):
        note_state(options.docs, name=present)
    document.write_text(filled, encoding="utf-8")
    drawn = bool(records) and reproduce_plot.draw(found, options.docs / PLOT)
    print(f"{NUMBERS} and {DOCUMENT} written, {len(records)} cells of the index read{f', {PLOT} drawn' * drawn}")


if __name__ == "__main__":
    sys.exit(main())
