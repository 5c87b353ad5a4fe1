"""The process of one cell: takes the lease, builds by `isobit build`, records how that went, gives the lease up.

A process of its own: a crash or a lack of memory ends this cell and no other. Started with a `Task` as JSON by
`python -m isobit.sweep.process`; imports nothing heavy before it has the lease.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import ExitCode
from isobit.sweep.folder import LOG, SUMMARY, Runs
from isobit.sweep.hashes import ROOT, files_sha256
from isobit.sweep.lease import SECONDS, take

BUSY = 75  # another process has the cell, or took it from this one
OTHER_CODE = 76  # the code here is not what the driver has, or is no longer
STOPPED = int(ExitCode.INTERRUPTED)  # by whoever started it: no result


@dataclass(frozen=True)
class Task:
    """What the process of a cell is told; paths mean the same on every host.

    Args:
        cell: the name of its folders.
        root: the folder of the sweep.
        words: of `isobit build`, without `--out`.
        code: hash of the files of the code that the driver has.
        threads: of the build.
        gpu: whether it may see any; without, a host's GPUs are hidden, as they would change the bytes.
        lease: seconds after which a process on another host that says nothing is dead.
    """

    cell: str
    root: str
    words: tuple[str, ...]
    code: str
    threads: int = 1
    gpu: bool = False
    lease: float = SECONDS

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The inverse of `to_json`."""
        content = json.loads(text)
        return cls(**{**content, "words": tuple(content["words"])})


def command(task: Task) -> list[str]:
    """The command line that starts its process, by this host's Python."""
    return [sys.executable, "-m", "isobit.sweep.process", task.to_json()]


def environment(task: Task, gpus: str | None = None) -> dict[str, str]:
    """Environment of the process: its threads, the checkout that this one runs from, the GPUs that it may see.

    Args:
        gpus: None to leave to a task that may see some those that whoever started this process left.
    """
    said = {**os.environ, "OMP_NUM_THREADS": str(task.threads), "MKL_NUM_THREADS": str(task.threads)}
    if (ROOT / "pipeline").is_dir():
        said["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if not task.gpu or gpus is not None:
        said["CUDA_VISIBLE_DEVICES"] = gpus or ""
    return said


def run(task: Task) -> int:
    """Start the process and wait for it, on a host that may not be the driver's; its exit code."""
    return subprocess.run(command(task), env=environment(task), stdin=subprocess.DEVNULL, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Build the cell of a task; 0 where its artifact stands at the end, `BUSY` where another process has it."""
    task = Task.from_json(arguments[0])
    runs = Runs(Path(task.root))
    lease = take(runs.work(task.cell), task.lease)
    if lease is None:
        return BUSY
    with lease.renewed(lost=lambda: os._exit(BUSY)):
        if runs.is_done(task.cell):
            return 0
        if task.code != files_sha256():
            runs.fail(task.cell, "code", f"Isobit's code on {socket.gethostname()} is not what the sweep began with")
            return OTHER_CODE
        began = time.monotonic()
        runs.note(task.cell, "started", host=socket.gethostname(), lease=lease.number)
        code = _build(task, runs)
        seconds = round(time.monotonic() - began, 3)
        if runs.is_done(task.cell):
            runs.note(task.cell, "built", seconds=seconds)
            runs.forgive(task.cell)
            return 0
        runs.note(task.cell, "stopped" if code == STOPPED else "failed", seconds=seconds, exit_code=code)
        if code == STOPPED:
            return code
        runs.fail(task.cell, **_told(runs.work(task.cell) / SUMMARY, code), exit_code=code,
                  host=socket.gethostname(), seconds=seconds)
        return code or 1


def _build(task: Task, runs: Runs) -> int:
    """`isobit build ... --json --resume` in this process: what it prints goes to files; its exit code."""
    for descriptor, name in ((1, SUMMARY), (2, LOG)):
        file = os.open(runs.work(task.cell) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = ["isobit", "build", *task.words, "--out", str(runs.artifact(task.cell)), "--json", "--resume"]
    try:
        runpy.run_module("isobit", run_name="__main__", alter_sys=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _told(summary: Path, code: int) -> dict[str, Any]:
    """What the build's JSON says of its failure."""
    try:
        said = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"stage": "build", "message": f"it ended with exit code {code} and no word; see {LOG}"}
    error = said.get("error")
    if error is None:
        broken = [rule["rule"] for rule in said.get("gate", {}).get("rules", ()) if not rule["passed"]]
        return {"stage": "gate", "message": "; ".join(broken) or f"exit code {code}"}
    message = "; ".join(filter(None, (error.get("what"), error.get("where"), error.get("do"))))
    return {"stage": error.get("stage"), "message": message, "field": error.get("field")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
