"""A process that answers tasks one after the other and may die of one: then the next task gets a new process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

TASKS = 300  # of one process: what libraries keep in memory goes with it
STARTUP_S = 300  # of a process that imports everything, on a busy machine


@dataclass(frozen=True)
class Answer:
    """What became of one task.

    Args:
        value: what the work returned; None where the process died.
        died: how it did; empty where it did not.
        cpu_s: processor seconds of the process and of those that it started; None where it died.
    """

    value: Any
    died: str = ""
    cpu_s: float | None = None


class Worker:
    """One process; usable as a context manager, which ends it.

    Args:
        work: a module's function of one task, run in the process; it must catch what it expects.
        seconds: that a task may take.
        memory: bytes of addresses that the process may have; None for no limit.
    """

    def __init__(self, work: Callable[[Any], Any], seconds: float, memory: int | None = None) -> None:
        self._work, self._seconds, self._memory = work, seconds, memory
        self._process: Any = None
        self._pipe: Any = None
        self._left = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def ask(self, task: Any) -> Answer:
        """The answer to one task."""
        if not self._left:
            self._start()
        self._left -= 1
        try:
            self._pipe.send(task)
            if not self._pipe.poll(self._seconds):
                self.end()
                return Answer(None, f"no answer in {self._seconds:g} s")
            value, cpu_s = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.end()
            return Answer(None, f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit {code}")
        return Answer(value, "", cpu_s)

    def end(self) -> None:
        """End the process; the next task starts another."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers that it started
            self._process.join()
            self._pipe.close()
        self._process, self._left = None, 0

    def _start(self) -> None:
        self.end()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._work, self._memory), daemon=False)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(STARTUP_S) or self._pipe.recv() != "ready":
            self.end()
            raise RuntimeError(f"a process for {self._work.__name__} did not start")
        self._left = TASKS


def _serve(pipe: Connection, work: Callable[[Any], Any], memory: int | None) -> None:
    """Answer tasks until the pipe is closed; nothing appears on the screen."""
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        before = _cpu_s()
        value = work(task)
        pipe.send((value, _cpu_s() - before))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
