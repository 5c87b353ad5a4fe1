"""Processes on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import GIGABYTE
from isobit.sweep.engines import Ended, Settings
from isobit.sweep.process import Task, command, environment

POLL = 0.05  # seconds


class LocalEngine:
    """As many processes at a time as processors, memory and GPUs allow; each is a group that outlives no Ctrl-C.

    Args:
        slots: cells at a time.
        gpus: what `CUDA_VISIBLE_DEVICES` says for each of the cells that may run beside each other; none without.
    """

    def __init__(self, slots: int, gpus: Sequence[str] = ()) -> None:
        self._slots = min(slots, len(gpus)) if gpus else slots
        self._free = list(gpus)
        self._running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}

    def slots(self) -> int:
        return self._slots

    def start(self, task: Task) -> None:
        gpus = self._free.pop() if self._free else ""
        process = subprocess.Popen(
            command(task), env=environment(task, gpus), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running[task.cell] = process, gpus

    def ended(self, seconds: float) -> Sequence[Ended]:
        until = time.monotonic() + seconds
        while True:
            over = [name for name, (process, _) in self._running.items() if process.poll() is not None]
            if over or time.monotonic() >= until:
                return [self._taken(name) for name in over]
            time.sleep(POLL)

    def _taken(self, name: str) -> Ended:
        process, gpus = self._running.pop(name)
        if gpus:
            self._free.append(gpus)
        return Ended(name, process.returncode)

    def close(self) -> None:
        for process, _ in self._running.values():
            process.terminate()  # unwinds: temporary folders go
        for process, _ in self._running.values():
            process.wait()
        self._running.clear()


def open_engine(settings: Settings) -> LocalEngine:
    """Raises InputError where a cell asks for more than this machine has."""
    wanted = settings.resources
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room = {"cpus": (os.cpu_count() or 1) // wanted.cpus, "memory": int(memory // (wanted.memory * GIGABYTE))}
    gpus = _shares(wanted.gpus)
    room |= {"gpus": len(gpus)} if wanted.gpus else {}
    if lacking := [name for name, count in room.items() if count < 1 and (name != "cpus" or settings.jobs is None)]:
        raise InputError(f"this machine has no room for one cell: {', '.join(lacking)}",
                         field=f"resources.{lacking[0]}", hint="Ask for less in the study, or take another engine.")
    most = min(room.values()) if settings.jobs is None else settings.jobs
    return LocalEngine(most, gpus)


def _shares(wanted: float) -> list[str]:
    """GPUs for every cell that may run beside the others: several whole ones each, or a part of one."""
    count = torch.cuda.device_count() if wanted and torch.cuda.is_available() else 0
    if wanted >= 1:
        each = round(wanted)
        return [",".join(map(str, range(at, at + each))) for at in range(0, count - each + 1, each)]
    return [str(gpu) for gpu in range(count) for _ in range(int(1 / wanted))] if wanted else []
