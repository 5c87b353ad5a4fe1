"""Builds that are killed, or that lack room, rights, a screen or a quiet neighbour: the same bytes, or a clear error.

    python tools/fuzz/faults.py --kills 50
    python tools/fuzz/faults.py --kills 0 --only full_out closed_stdout

A kill is SIGKILL at a random moment after the build's first word (before it are imports); nothing or a whole artifact
may then stand at `--out`, and the same command with `--resume` must give the bytes of a build that nobody stopped. A
fault is one row of `FAULTS`. What this machine does not allow (mounting a small disk) or lacks (libfaketime) is
skipped, with the reason.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from isobit.pipeline.errors import ExitCode
from tools.fuzz.builds import STEPS, Bench, Ended, digest, wait_for_word

SMALL_DISK, NO_ROOM = "64k", "4k"
# A small disk at $1 for one command, in a name space of its own: nothing stays mounted. What is left there goes to $3.
ON_DISK = 'mount -t tmpfs -o "$2" tmpfs "$1" || exit 99; place=$1; list=$3; shift 3; "$@"; code=$?; ' \
          'ls -A "$place" > "$list"; exit $code'
CANNOT_MOUNT = 99
STAGE = re.compile(r"(load|capture and place|calibrate|freeze, emit and prove)")


@dataclass(frozen=True)
class Outcome:
    """What a fault did.

    Args:
        wrong: what must not be; empty where all is well.
        told: what happened, for the table.
        skipped: this machine cannot have the fault, because of `told`.
    """

    wrong: str
    told: str = ""
    skipped: bool = False


Fault = Callable[[Bench, str], Outcome]


def judge(bench: Bench, ended: Ended, whole: str, out: str = "out", refusable: bool = True) -> Outcome:
    """The same bytes with exit code 0, or an error with exit code 2 and nothing at `out`.

    Args:
        whole: digest of an undisturbed build.
        refusable: an error is allowed.
    """
    place, said = bench.folder / out, ended.screen.strip().splitlines()[-1:] or [""]
    if ended.traceback:
        return Outcome(f"exit {ended.code} with a traceback or an internal error: {said[0]}")
    if ended.code == ExitCode.OK:
        same = place.is_dir() and digest(place) == whole
        return Outcome("" if same else "exit 0, and the artifact differs or is not there", "the same bytes")
    if ended.code == ExitCode.BAD_INPUT and refusable:
        errors = [line for line in ended.screen.splitlines() if line.startswith("error: ")]
        half = place.exists() and any(place.iterdir())
        return Outcome("refused, and something stands at --out" if half else "" if errors else "no error is told",
                       (errors or said)[0])
    return Outcome(f"exit {ended.code}: {said[0]}")


# -- kills ----------------------------------------------------------------------------------------------------------


def killed(bench: Bench, whole: str, after_s: float, number: int = signal.SIGKILL) -> Outcome:
    """Stop a build some seconds after its first word, look at what it left, and let it go on."""
    process = bench.start(bench.command("out"))
    wait_for_word(process)
    time.sleep(after_s)
    os.killpg(process.pid, number)  # with the compilers that it started
    screen, _ = process.communicate()
    stage = (STAGE.findall(screen) or ["start"])[-1]
    place, told = bench.folder / "out", f"after {after_s:.1f} s, in '{stage}'"
    if process.returncode == ExitCode.OK:
        stage = "ended before"
    elif number != signal.SIGKILL and process.returncode not in (ExitCode.INTERRUPTED, -number):
        return Outcome(f"exit {process.returncode}", told)  # -number: before Python was ready to handle it
    if place.exists() and digest(place) != whole:
        return Outcome("half an artifact stands at --out", told)
    if not place.exists():
        ended = bench.build("out", "--resume" if (bench.folder / ".checkpoints").exists() else "--overwrite")
        if (resumed := judge(bench, ended, whole, refusable=False)).wrong:
            return Outcome(f"resumed: {resumed.wrong}", told)
    left = [name for name in bench.left() if name not in ("out", "whole")]
    return Outcome(f"left behind: {left}" if left and stage != "ended before" else "", told)


def terminated(bench: Bench, whole: str) -> Outcome:
    """SIGTERM in the middle of the calibration."""
    process = bench.start(bench.command("out"))
    screen = ""
    for line in process.stdout or ():
        screen += line
        if "calibrate" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest, _ = process.communicate()
    if process.returncode != ExitCode.INTERRUPTED or "Traceback" in screen + rest:
        return Outcome(f"exit {process.returncode}: {rest.strip()[-200:]}")
    if (bench.folder / "out").exists():
        return Outcome("something stands at --out")
    return judge(bench, bench.build("out", "--resume"), whole, refusable=False)


# -- disks and rights -----------------------------------------------------------------------------------------------


def _on_disk(
    bench: Bench, whole: str, place: str, out: str, options: str, must_fail: bool = False, **environment: str
) -> Outcome:
    """A build with a disk mounted at `place` of the bench."""
    (bench.folder / place).mkdir(parents=True, exist_ok=True)
    listing = bench.folder / "listing"
    words = ["unshare", "--mount", "sh", "-c", ON_DISK, "sh", place, options, str(listing), *bench.command(out)]
    if shutil.which("unshare") is None:
        return Outcome("", "there is no unshare here", skipped=True)
    ended = bench.run(words, **environment)
    if ended.code == CANNOT_MOUNT or "unshare:" in ended.screen:
        return Outcome("", "this user cannot mount", skipped=True)
    left = listing.read_text().split() if listing.exists() else []
    found = judge(bench, ended, whole, out)
    if must_fail and ended.code != ExitCode.BAD_INPUT:
        return Outcome(found.wrong or f"exit {ended.code} on a disk that is too small", found.told)
    left = [name for name in left if name != ".checkpoints"]  # they are kept on purpose
    return Outcome(f"left on the disk: {left}" if left and place == "disk" else found.wrong, found.told)


def full_out(bench: Bench, whole: str) -> Outcome:
    """The disk of --out is too small for the artifact."""
    return _on_disk(bench, whole, "disk", "disk/out", f"size={SMALL_DISK}", must_fail=True)


def full_checkpoints(bench: Bench, whole: str) -> Outcome:
    """The disk of the checkpoints is too small for one."""
    return _on_disk(bench, whole, ".checkpoints", "out", f"size={NO_ROOM}")


def full_temporary(bench: Bench, whole: str) -> Outcome:
    """The disk of TMPDIR is full."""
    return _on_disk(bench, whole, "temporary", "out", f"size={NO_ROOM}", TMPDIR=str(bench.folder / "temporary"))


def read_only_out(bench: Bench, whole: str) -> Outcome:
    """The disk of --out cannot be written."""
    return _on_disk(bench, whole, "disk", "disk/out", "ro,size=1m", must_fail=True)


def read_only_checkpoints(bench: Bench, whole: str) -> Outcome:
    """The folder of the checkpoints cannot be written."""
    return _on_disk(bench, whole, ".checkpoints", "out", "ro,size=1m")


def read_only_temporary(bench: Bench, whole: str) -> Outcome:
    """TMPDIR cannot be written."""
    return _on_disk(bench, whole, "temporary", "out", "ro,size=1m", TMPDIR=str(bench.folder / "temporary"))


# -- screens, neighbours, surroundings ------------------------------------------------------------------------------


def _in_shell(text: str) -> Fault:
    """A build whose streams a shell has bent: `text` follows the command."""
    return lambda bench, whole: judge(
        bench, bench.run(["sh", "-c", f'"$@" {text}', "sh", *bench.command("out")]), whole)


def _with(**environment: str) -> Fault:
    return lambda bench, whole: judge(bench, bench.build("out", **environment), whole, refusable=False)


def full_stdout(bench: Bench, whole: str) -> Outcome:
    """What is written to stdout finds no room: that is an error, and the artifact that it tells of is whole."""
    ended, place = bench.run(["sh", "-c", '"$@" > /dev/full', "sh", *bench.command("out")]), bench.folder / "out"
    if ended.traceback or ended.code != ExitCode.BAD_INPUT:
        return Outcome(f"exit {ended.code}: {ended.screen.strip()[-200:]}")
    wrong = "" if place.is_dir() and digest(place) == whole else "the artifact differs or is not there"
    return Outcome(wrong, "an error beside a whole artifact")


def two_threads(bench: Bench, whole: str) -> Outcome:
    """Two threads sum floats in another order: losses in the reports may differ, the model may not."""
    ended = bench.build("out", OMP_NUM_THREADS="2", MKL_NUM_THREADS="2")
    if ended.code != ExitCode.OK:
        return Outcome(f"exit {ended.code}: {ended.screen.strip()[-200:]}")
    models = [{path.name: path.read_bytes() for path in (bench.folder / name).glob("model.*")}
              for name in ("whole", "out")]
    return Outcome("" if models[0] == models[1] else "the model differs", "the same bytes of the model")


def two_at_once(bench: Bench, whole: str) -> Outcome:
    """Two builds into one folder: one is refused, or both come one after the other."""
    first = bench.start(bench.command("out"))
    second = bench.build("out")
    screen, _ = first.communicate()
    ends = [Ended(first.returncode, screen, 0.0), second]
    if [end.code for end in ends].count(ExitCode.OK) != 1:
        return Outcome(f"exit codes {[end.code for end in ends]}")
    for end in ends:
        if end.traceback or end.code not in (ExitCode.OK, ExitCode.BAD_INPUT):
            return Outcome(f"exit {end.code}: {end.screen.strip()[-200:]}")
    return Outcome("" if digest(bench.folder / "out") == whole else "the artifact differs", "one was refused")


def clock_back(bench: Bench, whole: str) -> Outcome:
    """The clock stands in the past."""
    if shutil.which("faketime") is None:
        return Outcome("", "libfaketime is not installed", skipped=True)
    return judge(bench, bench.run(["faketime", "2001-01-01", *bench.command("out")]), whole, refusable=False)


FAULTS: dict[str, Fault] = {
    "terminated": terminated, "full_out": full_out, "full_checkpoints": full_checkpoints,
    "full_temporary": full_temporary, "read_only_out": read_only_out,
    "read_only_checkpoints": read_only_checkpoints, "read_only_temporary": read_only_temporary,
    "closed_stdout": _in_shell(">&-"), "closed_streams": _in_shell(">&- 2>&-"), "full_stdout": full_stdout,
    "two_at_once": two_at_once, "clock_back": clock_back, "locale_posix": _with(LC_ALL="C", PYTHONUTF8="0"),
    "locale_unknown": _with(LC_ALL="tr_TR.ISO-8859-9", LANG="tr_TR"), "time_zone": _with(TZ="Pacific/Kiritimati"),
    "two_threads": two_threads, "hash_seed": _with(PYTHONHASHSEED="12345"),
    "no_home": _with(HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent"),
}


def _clean(bench: Bench) -> None:
    for name in bench.left():
        path = bench.folder / name
        if name != "whole":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run(
    bench: Bench, kills: int, faults: Sequence[str], seed: int = 0, told: Callable[[str], None] = print
) -> Iterator[tuple[str, Outcome]]:
    """(name, outcome) of every kill and fault, one after the other."""
    whole = bench.build("whole")
    if whole.code != ExitCode.OK:
        raise RuntimeError(f"the undisturbed build fails:\n{whole.screen}")
    expected, chance = digest(bench.folder / "whole"), random.Random(seed)
    told(f"an undisturbed build takes {whole.seconds:.1f} s, {whole.spoken_s:.1f} s of them after its first word")
    moments = [chance.uniform(0, whole.spoken_s) for _ in range(kills)]
    tasks: list[tuple[str, Callable[[], Outcome]]] = [
        (f"kill {place}", lambda moment=moment: killed(bench, expected, moment)) for place, moment in enumerate(moments)
    ]
    tasks += [(name, lambda name=name: FAULTS[name](bench, expected)) for name in faults]
    for name, task in tasks:
        yield name, task()
        _clean(bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where something must not be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=list(FAULTS), default=list(FAULTS), help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--recipe", default="qdrop_w4a4")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the method")
    given = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.recipe, given.target, given.steps)
        for name, outcome in run(bench, given.kills, given.only, given.seed, lambda text: print(text, flush=True)):
            verdict = "skipped" if outcome.skipped else "WRONG" if outcome.wrong else "ok"
            print(f"{name:<24}{verdict:<9}{outcome.wrong or outcome.told}"[:300], flush=True)
            wrong += bool(outcome.wrong)
    print(f"{wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
