"""A lease on a cell: one process at a time builds it, among all that share a file system, and a dead one keeps nobody.

Leases of a cell are numbered files, and the highest number counts. Taking one means making the next file, which the
file system lets one process alone do (`O_EXCL`, also on NFS). The highest file is never removed, only marked as given
up: who looked a moment ago and acts late tries a number that is there by now.

A lease is alive while its process is: on the same host that is asked of the system (number and start time of the
process), on others the file's modification time must be fresh, which the process renews. The file server's clock alone
is read, so clocks of hosts may differ.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SECONDS = 120.0  # a lease that was not renewed for so long is dead
RENEWALS = 8  # in that time
PREFIX = "lease-"
FREE = "given up"


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds."""

    path: Path
    seconds: float = SECONDS

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix(PREFIX))

    def renew(self) -> bool:
        """Say that the process is alive; False where another took the lease, because this one looked dead."""
        if (_highest(self.path.parent) or 0) > self.number:
            return False
        with suppress(OSError):
            os.utime(self.path)
        return True

    def give_up(self) -> None:
        """The next may take it at once."""
        with suppress(OSError):
            self.path.write_text(FREE, encoding="utf-8")

    @contextmanager
    def renewed(self, lost: Callable[[], None]) -> Iterator[None]:
        """Renew it while the block runs, then give it up; a thread calls `lost` where another process took it."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self.seconds / RENEWALS):
                if not self.renew():
                    lost()
                    return

        thread = threading.Thread(target=keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.give_up()


def take(folder: Path, seconds: float = SECONDS) -> Lease | None:
    """The lease of the cell whose work lies in `folder`; None where a living process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    number = _highest(folder)
    if number is not None and _alive(folder / f"{PREFIX}{number:06d}", seconds):
        return None
    path = folder / f"{PREFIX}{(number or 0) + 1:06d}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:  # somebody was faster
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"host": host(), "pid": os.getpid(), "started": started(os.getpid())}, file)
    for old in range(1, number or 1)[-2:]:  # the one before stays: a folder that is listed meanwhile shows one of two
        (folder / f"{PREFIX}{old:06d}").unlink(missing_ok=True)
    return Lease(path, seconds)


def is_held(folder: Path, seconds: float = SECONDS) -> bool:
    """Whether a living process has the lease."""
    number = _highest(folder)
    return number is not None and _alive(folder / f"{PREFIX}{number:06d}", seconds)


def holder(folder: Path) -> tuple[str, int] | None:
    """(host, process) of the last lease; None where there is none or it was given up."""
    number = _highest(folder)
    found = None if number is None else _read(folder / f"{PREFIX}{number:06d}")
    return None if found is None else (found[0], found[1])


def _highest(folder: Path) -> int | None:
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    numbers = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    return max((int(number) for number in numbers if number.isdecimal()), default=None)  # copies are no leases


def _alive(path: Path, seconds: float) -> bool:
    try:
        if path.read_text(encoding="utf-8") == FREE:
            return False
        found = _read(path)
        if found is not None and found[0] == host():
            return started(found[1]) == found[2]
        return _now(path.parent) - path.stat().st_mtime < seconds
    except FileNotFoundError:  # a higher number came meanwhile
        return True
    except OSError:
        return True


def _read(path: Path) -> tuple[str, int, str] | None:
    """(host, process, its start); None of a file that says none, or not yet."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return str(said["host"]), int(said["pid"]), str(said["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _now(folder: Path) -> float:
    """The time of the file server."""
    clock = folder / f".clock-{os.getpid()}"
    try:
        clock.touch()
        return clock.stat().st_mtime
    finally:
        clock.unlink(missing_ok=True)


@cache
def host() -> str:
    """Where a process number means one process: the machine since it started, and the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def started(pid: int) -> str:
    """When a process of this host started, in the system's own unit; empty for none, or one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)  # a system without /proc
    except ProcessLookupError:
        return ""
    except OSError:
        return "alive"
    return "alive"
