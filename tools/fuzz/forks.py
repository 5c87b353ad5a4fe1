"""Work in a fork of this process: imports are there; memory, time and signals are the fork's own."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CRASHED = 70  # exit code of work that raised


@dataclass(frozen=True)
class Forked:
    """How a fork ended.

    Args:
        code: exit code; below zero the number of the signal.
        late: it was killed since its time was over.
        grown: most bytes that it had in memory at once, beyond its parent's, which it began with; a process that it
            starts counts where that one alone has more.
    """

    code: int
    late: bool
    grown: int
    cpu_s: float


def forked(work: Callable[[], int], folder: Path, screen: Path, seconds: float, memory: int) -> Forked:
    """Run `work` in `folder` with everything that it prints going to the file `screen`.

    Args:
        memory: bytes of addresses that it may have, beyond those that it begins with.
    """
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    addresses, resident, of_files = (int(count) * resource.getpagesize() for count in pages[:3])
    process = os.fork()
    if not process:
        code = CRASHED
        try:
            _enter(folder, screen, addresses + memory)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    handle = os.pidfd_open(process)
    try:
        late = not select.select([handle], [], [], seconds)[0]
    finally:
        os.close(handle)
        try:
            os.killpg(process, signal.SIGKILL)  # with what it started
        except ProcessLookupError:  # it is over, and so is everything that it started
            os.kill(process, signal.SIGKILL)
    _, status, used = os.wait4(process, 0)
    begun = resident - of_files  # a fork maps pages of files anew, where it reads them
    grown = max((used.ru_maxrss << 10) - begun, 0)
    return Forked(os.waitstatus_to_exitcode(status), late, grown, used.ru_utime + used.ru_stime)


def _enter(folder: Path, screen: Path, memory: int) -> None:
    os.setpgid(0, 0)
    file, nothing = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
    for stream, place in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(stream, place)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (until the process ends)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
