"""Runs the plan of `plan.py`, one process a cell, and writes docs/results.json and results.md from what was recorded.

`python tools/reproduce/reproduce.py --jobs 2` runs every cell that has no record yet and then writes the document. A
run may be interrupted and repeated: finished cells stay as they are, failed ones are tried again. `--groups`, `--only`
and `--limit` run a part and leave the document alone; `--render` runs nothing. It puts the groups that `--groups` names
into the JSON from whatever is recorded, without it those of which every cell is, and writes all tables from the JSON.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from isobit.pipeline.errors import CompileError, InputError
from tools.code_state import code_sha256, note_state
from tools.documents import fill, read_json, write_json
from tools.reproduce import docs as reproduce_docs
from tools.reproduce import plot as reproduce_plot
from tools.reproduce.cell import Request, cell_key, record_path
from tools.reproduce.cell import write_json as write_record
from tools.reproduce.content import content
from tools.reproduce.plan import PLAN, Cell, Group, cells_of
from tools.reproduce.summary import Records, read_records

PROOF = 512
POLL_SECONDS = 0.2
DOCUMENT, NUMBERS, PLOT, MARK = "results.md", "results.json", "results.svg", "reproduce"


@dataclass(frozen=True)
class State:
    """What is known of a cell: its key (empty where it cannot be made), and `todo`, `done`, `stale` or `failed`.

    `stale` is done, by another state of the code.
    """

    cell: Cell
    key: str
    word: str


def main(arguments: Sequence[str] | None = None, plan: Sequence[Group] = PLAN) -> int:
    """The command line; 1 where a cell failed, 2 where an option or the document is wrong."""
    options = parse(arguments, plan)
    groups = [group for group in plan if options.groups is None or group.name in options.groups]
    try:
        if options.render:
            return render(plan, options)
        code = code_sha256()
        states = [state_of(cell, code, options) for cell in chosen(groups, options.only)]
        if options.list:
            return show(states)
        failed = run(states, options)
        whole = options.only is None and len(groups) == len(plan) and options.limit is None
        if whole:
            render(plan, options)
        else:
            print("a part of the plan was run: --render with the same --groups writes its tables")
        return 1 if failed else 0
    except CompileError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


def parse(arguments: Sequence[str] | None, plan: Sequence[Group]) -> argparse.Namespace:
    """Options, paths made absolute."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [group.name for group in plan]
    parser.add_argument("--groups", type=lambda text: text.split(","),
                        help=f"parts of the plan, separated by commas: {', '.join(names)}")
    parser.add_argument("--only", metavar="GLOB", help="cells whose id matches, for example 'ds_cnn/qdrop_*/1005'")
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most so many cells, then stop")
    parser.add_argument("--jobs", type=_positive, default=1, help="processes at a time, one thread each")
    parser.add_argument("--proof", type=_positive, default=PROOF,
                        help="evaluation samples that parity is proven on; accuracy is always measured on all")
    parser.add_argument("--stale", action="store_true", help="run again what another state of the code measured")
    parser.add_argument("--list", action="store_true", help="only print the cells and what is known of them")
    parser.add_argument("--render", action="store_true",
                        help="only write the numbers and tables: of --groups, or of all groups that are fully recorded")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "reproduce", help="folder of the records")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help=f"folder of {DOCUMENT}, {NUMBERS} and {PLOT}")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups or ()) - set(names):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    options.data, options.out, options.docs = (path.resolve() for path in (options.data, options.out, options.docs))
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def chosen(groups: Iterable[Group], only: str | None) -> list[Cell]:
    """Cells of the groups, cut by the glob; raises InputError where none is left of a glob."""
    cells = cells_of(tuple(groups))
    if only is None:
        return cells
    found = [cell for cell in cells if fnmatch.fnmatchcase(cell.id, only)]
    if not found:
        raise InputError("no cell of the plan matches", where=f"--only {only}", hint="--list prints all ids")
    return found


def state_of(cell: Cell, code: str, options: argparse.Namespace) -> State:
    """Read off the cell's record, if there is one of the same recipe, model and data; `code` is the sources' hash."""
    try:
        key = cell_key(cell, options.data, options.proof)
    except CompileError:
        key = ""  # the cell's process meets the same error and records it
    path = record_path(options.out, cell)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if record.get("key") != key:
        word = "todo"
    elif record["error"] is not None:
        word = "failed"
    else:
        word = "done" if record["code"] == code else "stale"
    return State(cell, key, word)


def show(states: Sequence[State]) -> int:
    """Print every cell with its state, and how many there are of each."""
    for state in states:
        print(f"{state.word:7}{state.cell.id}")
    counts = {word: sum(state.word == word for state in states) for word in ("todo", "failed", "stale", "done")}
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 0


def run(states: Sequence[State], options: argparse.Namespace) -> int:
    """Run what has no good record, `--jobs` at a time; returns how many cells failed.

    Processes that still run when this one is interrupted are ended; their cells have no record and are run next time.
    """
    again = ("todo", "failed", "stale") if options.stale else ("todo", "failed")
    waiting = deque([state for state in states if state.word in again][: options.limit])
    total, finished, failed = len(waiting), 0, 0
    print(f"{total} of {len(states)} cells to run, {options.jobs} at a time")
    running: dict[subprocess.Popen[bytes], State] = {}
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                state = waiting.popleft()
                running[start(state, options)] = state
            for process in [process for process in running if process.poll() is not None]:
                record = outcome(running.pop(process), process, options)
                finished += 1
                failed += record["error"] is not None
                print(f"[{finished}/{total}] {told(record)}", flush=True)
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def start(state: State, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The process of a cell; what it prints goes to a file beside its record."""
    request = Request(state.cell, options.data, options.out, options.proof, state.key)
    path = record_path(options.out, state.cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "reproduce" / "cell.py"), request.to_json()],
            stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def outcome(state: State, process: subprocess.Popen[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """The record that a process left, or one that says how it ended without."""
    path = record_path(options.out, state.cell)
    if process.returncode != 0:
        lines = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()
        error = f"the process ended with code {process.returncode}: {lines[-1] if lines else 'it said nothing'}"
        write_record(path, {"id": state.cell.id, "key": state.key, "error": error})
    return json.loads(path.read_text(encoding="utf-8"))


def told(record: dict[str, Any]) -> str:
    """One line about a finished cell."""
    if record["error"] is not None:
        return f"{record['id']}: FAILED: {' '.join(record['error'].split())}"
    accuracy, seconds = record["accuracy"], record["phases"]["calibrate"]["cpu_s"]
    return (f"{record['id']}: {accuracy['artifact']:.2f} % (float {accuracy['float']:.2f} %), "
            f"calibrated in {seconds:.0f} s of CPU time")


def render(plan: Sequence[Group], options: argparse.Namespace) -> int:
    """Write the numbers as JSON, fill the tables of the document from them, draw its plot; the words stay.

    Without `--groups` a group is written where each of its cells has a record: a part of them would take away what
    others measured.
    """
    document, numbers, records = options.docs / DOCUMENT, options.docs / NUMBERS, read_records(options.out, plan)
    if not document.is_file():
        raise InputError("the document is not there", where=str(document),
                         hint=f"its tables stand between marks, <!-- {MARK}:NAME --> and <!-- /{MARK}:NAME -->")
    names = [group.name for group in plan if _to_write(group, records, options.groups)]
    found = content(plan, records, names, read_json(numbers))
    filled = fill(document.read_text(encoding="utf-8"), reproduce_docs.tables(plan, found), MARK, DOCUMENT)
    write_json(numbers, found)
    if any(record.get("code") == code_sha256() for record in records.values()):
        note_state(options.docs)
    document.write_text(filled, encoding="utf-8")
    drawn = reproduce_plot.draw([group for group in plan if group.name in names], records, options.docs / PLOT)
    kept = [group.name for group in plan if group.lines and group.name not in names]
    print(f"{NUMBERS}: {', '.join(names) or 'nothing'} written from {len(records)} recorded cells"
          + (f", {PLOT} drawn" if drawn else "") + (f"; left as they are: {', '.join(kept)}" if kept else ""))
    return 0


def _to_write(group: Group, records: Records, asked: Sequence[str] | None) -> bool:
    """`best` has no cells: it is made of the other groups."""
    cells = cells_of((group,))
    return bool(cells) and (all(cell in records for cell in cells) if asked is None else group.name in asked)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the cells' processes end too
    sys.exit(main())
