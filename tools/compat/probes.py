"""An artifact's `run.py` in another environment, and on another processor: as a whole, and each layer by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import InputError
from tools.compat.environments import Runtime, environment
from tools.documents import markdown

HERE = "here"
EMULATOR = "qemu-x86_64"
TIMEOUT = 900  # seconds; an emulated network is slow, a hung one is slower
# The runtime comes first: a module of TVM brings a library that it takes only where no other one is loaded.
START = """
import importlib, runpy, sys
from importlib import metadata
package, module, *sys.argv = sys.argv[1:]
importlib.import_module(module)
print("version: " + metadata.version(package))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Probed:
    """One artifact's `run.py` on one version and one processor.

    Args:
        run_py, probe: the last line of it, without and with `--probe`.
        kernels: that were run by themselves.
        wrong: names of what they give, of those that are wrong.
        said: why not one was run, or what was said before them.
    """

    artifact: str
    runtime: str
    version: str
    processor: str
    run_py: str
    probe: str
    kernels: int = 0
    wrong: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def passed(self) -> bool:
        return self.run_py == self.probe == "PASS" and self.kernels > 0


def probe(artifact: Path, runtime: Runtime, folder: Path, processor: str = HERE) -> Probed:
    """Run both.

    Args:
        folder: of the environments.
        processor: `HERE`, or one that `qemu-x86_64 -cpu help` names.
    """
    start = [*emulator(processor), str(environment(runtime, folder)), "-c", START, runtime.package, runtime.module]
    whole = _lines([*start, str(artifact / "run.py"), "--seconds", "0.2"])
    layers = _lines([*start, str(artifact / "run.py"), "--probe"])
    version = next((line[9:] for line in layers if line.startswith("version: ")), runtime.version)
    counts = [re.match(r"layers run by themselves: (\d+),", line) for line in layers]
    kernels = next((int(found[1]) for found in counts if found), 0)
    wrong = [line.partition(": wrong on ")[0] for line in layers if ": wrong on " in line]
    other = [line for line in layers[:-1] if not re.match(
        r"version: |layers run by themselves: |not compared, |.*: wrong on ", line)]
    return Probed(artifact.name, runtime.title, version, processor, whole[-1], layers[-1], kernels, wrong,
                  " ".join(other))


def emulator(processor: str) -> list[str]:
    """What a command begins with to be run on a processor."""
    if processor == HERE:
        return []
    if shutil.which(EMULATOR) is None:
        raise InputError(f"{EMULATOR} is not installed", field="--processors", hint="apt install qemu-user")
    return [EMULATOR, "-cpu", processor]


def _lines(command: Sequence[str]) -> list[str]:
    """What it prints, at least one line; a crash is the last."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return [f"no end within {TIMEOUT} s"]
    lines = [line for line in done.stdout.splitlines() if line]
    if lines and lines[-1] in ("PASS", "FAIL"):
        return lines
    complaints = done.stderr.strip().splitlines() or ["no message"]
    return [*lines, f"exit status {done.returncode}: {complaints[-1]}"]


COLUMNS = ("artifact", "right on", "kernels", "wrong")


def table(probed: Sequence[Probed]) -> str:
    """A row for each artifact and runtime: where all of it is right, how many kernels were run, what is not."""
    rows = []
    for name, runtime in dict.fromkeys((one.artifact, one.runtime) for one in probed):
        mine = [one for one in probed if (one.artifact, one.runtime) == (name, runtime)]
        counts = "/".join(str(count) for count in sorted({one.kernels for one in mine if one.kernels})) or "0"
        problems: dict[str, list[Probed]] = {}
        for one in mine:
            if not one.passed:
                problems.setdefault(_problem(one), []).append(one)
        wrong = "; ".join(f"{_places(where)}: {what}" for what, where in problems.items())
        rows.append((name, _places([one for one in mine if one.passed]) or "none", counts, wrong or "none"))
    return markdown(COLUMNS, rows, tight=True)


def _places(found: Sequence[Probed]) -> str:
    """The versions on this processor, then those on each other one."""
    said = []
    for processor in dict.fromkeys(one.processor for one in found):
        there = [one for one in found if one.processor == processor]
        where = there[0].runtime if processor == HERE else f"on {processor}"
        said.append(f"{where} {', '.join(one.version for one in there)}")
    return "; ".join(said)


def _problem(one: Probed) -> str:
    if one.wrong:
        return f"{len(one.wrong)} of {one.kernels} kernels, first `{one.wrong[0]}`"
    if one.kernels and one.probe == "PASS":
        return f"`run.py` alone: {one.run_py}"
    return one.said or one.probe


def to_json(one: Probed) -> dict[str, Any]:
    """One line of docs/compat.json."""
    return {key: value for key, value in asdict(one).items() if value not in ("", [])}


def from_json(entry: Mapping[str, Any]) -> Probed:
    """What `to_json` wrote."""
    return Probed(**entry)
