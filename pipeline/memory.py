"""How much memory is free, asked before a file gets what it claims to need; and what is kept of freed memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from isobit.pipeline.errors import InputError

_MEMINFO = Path("/proc/meminfo")
# (limit, what is used of it) of a container, in both versions of Linux's control groups.
_CONTAINER = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
KEPT = 1 << 30
GIGABYTE = 10**9  # as options and studies count


def keep_freed_memory(kept: int = KEPT) -> bool:
    """Let the C library of this process keep up to `kept` bytes of freed memory at hand; for processes that calibrate.

    A step of calibration allocates and frees the same large tensors again and again. As it comes, glibc maps each of
    them anew and the system clears every page: a quarter of the CPU time where maps are large. Nothing that is computed
    changes; the peak of memory may rise by as much as is kept.

    Returns:
        Whether there was a C library that understands.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(option(_M_MMAP_MAX, 0)) and bool(option(_M_TRIM_THRESHOLD, kept))


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, and of the container where it runs in one."""
    machine = _of_machine()
    inside = [limit - used for limit, used in map(_numbers, _CONTAINER) if limit is not None and used is not None]
    return max(0, min([machine, *inside]))


def _of_machine() -> int:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):  # another system than Linux: all that is there is known
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _numbers(files: tuple[Path, Path]) -> tuple[int | None, int | None]:
    """The numbers in two files; None where there is no file, or no limit in it."""
    return _number(files[0]), _number(files[1])


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def check_memory(needed: int, what: str, where: str, hint: str) -> None:
    """Raises InputError where `what`, of `needed` bytes, would take more than half of the memory that is free.

    Half, because whatever is read is copied at least in part before it is used.
    """
    free = available_memory()
    if needed > free // 2:
        raise InputError(
            f"{what} takes {needed:,} bytes of memory, and {free:,} are free", where=where,
            allowed="half of what is free", hint=hint,
        )
