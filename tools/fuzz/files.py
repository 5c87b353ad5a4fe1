"""Good files of every kind that a user hands over, damaged, and read by the command line: refused, or harmless.

    python tools/fuzz/files.py --count 150
    python tools/fuzz/files.py --kind onnx --seed 17 --count 1 --keep found

A case is its kind and its seed. Allowed ends are `read` (exit 0: the damage did not matter), `refused` (exit 2 with
one error) and, where the command judges what it reads, `failed` (exit 1). Everything else is a finding: an internal
error, a traceback, a signal, no end in time, more memory than a small file explains, something left at `--out`, a
pickle of the file that was run, a terminal that a file could steer. Each is shown, and with `--keep` its files stay.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch

from isobit.cli import app
from isobit.pipeline.errors import ExitCode
from isobit.pipeline.memory import GIGABYTE
from tools.fuzz.damage import CANARY, damaged, some_bytes
from tools.fuzz.forks import Forked, forked
from tools.fuzz.good import KINDS, Kind

READ, REFUSED, FAILED, FINDING = ENDS = ("read", "refused", "failed", "finding")
LIMIT_S, ADDRESSES, MEMORY = 120.0, 4 * GIGABYTE, 1.0 * GIGABYTE
SCREEN, COMMAND = "screen.txt", "command.txt"
BAD = re.compile(r"Traceback \(most recent call last\)|internal error")
ERROR = re.compile(r"^(?:error: |Usage: )", re.MULTILINE)
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


@dataclass(frozen=True)
class Case:
    """A damaged file and how the command line ended on it."""

    kind: str
    seed: int
    end: str
    why: str
    seconds: float


class Files:
    """Good files of the kinds that were asked for, made once.

    Args:
        folder: empty; a folder of each kind is made in it.
    """

    def __init__(self, folder: Path, kinds: Iterable[str]) -> None:
        self._folder, self.kinds = folder, tuple(kinds)
        for name in self.kinds:
            (folder / name).mkdir()
            KINDS[name].make(folder / name)

    def damaged(self, name: str, seed: int, place: Path) -> None:
        """Write the case of a seed into the folder `place`, which is made."""
        shutil.copytree(self._folder / name, place, symlinks=True)
        kind, chance = KINDS[name], random.Random(f"{name} {seed}")
        damaged(chance, place / kind.victim, kind.forms)
        if chance.random() < 0.25 and (place / kind.victim).is_file():
            some_bytes(chance, place / kind.victim)

    def good(self, name: str, place: Path) -> None:
        """The same without damage."""
        shutil.copytree(self._folder / name, place, symlinks=True)


def read(kind: Kind, place: Path, screen: Path, seconds: float = LIMIT_S) -> Forked:
    """The command of a kind, in a process that a small part of this machine is lent to."""
    return forked(lambda: command(kind), place, screen, seconds, ADDRESSES)


def command(kind: Kind) -> int:
    """The exit code of a kind's command, run in the current folder."""
    try:
        app(list(kind.words), prog_name="isobit")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def judge(kind: Kind, place: Path, ended: Forked, said: str) -> tuple[str, str]:
    """(end, why it is a finding) of a command that read what stands in `place`."""
    out = [name for name in ("out", "out.html") if (place / name).exists()]
    errors = [line for line in said.splitlines() if BAD.search(line)]
    whole = (place / "out" / "certificate.json").is_file() or (place / "out.html").is_file()
    last = (said.strip().splitlines() or [""])[-1][:200]
    wrong = {
        f"no end in time after {ended.cpu_s:.0f} processor seconds": ended.late,
        f"signal {-ended.code}": ended.code < 0 and not ended.late,
        "code of the file was run": (place / CANARY).exists(),
        f"exit {ended.code}: {(errors or [last])[0]}": bool(errors) or ended.code not in (
            *(ExitCode.OK, ExitCode.BAD_INPUT), *([ExitCode.GATE_FAILED] if kind.may_fail else []), -9),
        f"exit {ended.code} without one error: {last}":
            ended.code == ExitCode.BAD_INPUT and len(ERROR.findall(said)) != 1,
        f"exit {ended.code} and {out} is there": bool(out) and (ended.code != ExitCode.OK or not whole),
        f"{ended.grown >> 20} MiB of memory": ended.grown > MEMORY,
        "what a file says steers the terminal": STEERS.search(said) is not None,
    }
    found = [text for text, is_so in wrong.items() if is_so]
    if found:
        return FINDING, "; ".join(found)
    return {ExitCode.OK: READ, ExitCode.BAD_INPUT: REFUSED}.get(ExitCode(ended.code), FAILED), ""


def cases(
    files: Files, name: str, seeds: Sequence[int], keep: Path | None = None, seconds: float = LIMIT_S
) -> Iterator[Case]:
    """The cases of a kind; findings are kept in `keep`."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            place, screen, began = Path(folder) / "files", Path(folder) / SCREEN, time.perf_counter()
            files.damaged(name, seed, place)
            ended = read(KINDS[name], place, screen, seconds)
            said = screen.read_text(encoding="utf-8", errors="replace")
            end, why = judge(KINDS[name], place, ended, said)
            if end == FINDING and keep is not None:
                kept = keep / f"{name}-{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                files.damaged(name, seed, kept)  # as it was before the command
                shutil.copy(screen, keep / f"{name}-{seed}.{SCREEN}")
                (keep / f"{name}-{seed}.{COMMAND}").write_text(" ".join(("isobit", *KINDS[name].words)) + "\n")
        yield Case(name, seed, end, why, time.perf_counter() - began)


def warmed(files: Files) -> None:
    """Read the good files here, so that forks need not import anything again.

    Raises:
        RuntimeError: one is not read, so that damaging it would say nothing.
    """
    for name in files.kinds:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as screen, \
                contextlib.redirect_stderr(screen):
            files.good(name, place := Path(folder) / "files")
            with contextlib.chdir(place):
                code = command(KINDS[name])
            end, why = judge(KINDS[name], place, Forked(code, False, 0, 0.0), screen.getvalue())
        if end != (REFUSED if name == "module" else READ):
            raise RuntimeError(f"the good file of kind '{name}' is not read: {end} {why}\n{screen.getvalue()}")
    gc.freeze()  # pages that are shared with forks stay so


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the first case of each kind; the others follow it")
    parser.add_argument("--count", type=int, default=20, help="how many cases of each kind")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--keep", type=Path, help="folder for files that are findings")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that a case may take")
    given = parser.parse_args(arguments)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # forks would wait for this process's other threads for ever
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), given.kind)
        warmed(files)
        print(f"{'kind':<16}{'cases':>8}" + "".join(f"{end:>10}" for end in ENDS) + f"{'slowest':>10}", flush=True)
        seeds = range(given.seed, given.seed + given.count)
        findings = [tallied(name, cases(files, name, seeds, given.keep, given.limit)) for name in files.kinds]
    return int(any(findings))


def tallied(name: str, found: Iterable[Case]) -> int:
    """Print findings of a kind as they come, and its row of the table; how many they are."""
    ends, slowest = Counter[str](), 0.0
    for case in found:
        ends[case.end] += 1
        slowest = max(slowest, case.seconds)
        if case.end == FINDING:
            print(f"{case.kind} {case.seed}: {case.why}"[:400], flush=True)
    counts = "".join(f"{ends[end]:>10}" for end in ENDS)
    print(f"{name:<16}{ends.total():>8}{counts}{slowest:>8.1f} s", flush=True)
    return ends[FINDING]


if __name__ == "__main__":
    sys.exit(main())
