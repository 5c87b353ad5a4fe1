"""One run at a time for one folder: an OS lock beside it, which ends with the process that holds it.

The lock is on an open file, not in the file's being there: a killed run leaves at most a file of a few bytes, which the
next run takes over and removes. Two threads of one process exclude each other like two processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from isobit.pipeline.errors import InputError

try:
    import fcntl
except ImportError:  # no POSIX locks here: nobody is kept away
    fcntl = None

TRIES = 100  # each is lost to a run that ended at that very moment


@contextmanager
def hold(*folders: Path) -> Iterator[bool]:
    """Keep every other run away from `folders` while the block runs; they need not exist, their parents are made.

    Yields:
        Whether they are held; False where the file system knows no locks.

    Raises:
        InputError: another run holds one of them, or the place cannot be written to.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(_held(folder)) for folder in dict.fromkeys(map(Path.resolve, folders))]
        yield all(held)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    lock = folder.with_name(f".{folder.name}.lock")
    made: list[Path] = []
    try:
        descriptor = _locked(lock, folder, made)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    lock.unlink()  # while it is still ours: whoever waits in between finds another file and asks again
                os.close(descriptor)
    finally:
        for parent in reversed(made):
            with contextlib.suppress(OSError):  # somebody else uses it by now
                parent.rmdir()


def _locked(lock: Path, folder: Path, made: list[Path]) -> int | None:
    """The open file that holds the lock; None where there are no locks. Parents that are made go to `made`."""
    for _ in range(TRIES):
        try:
            _make_parents(lock.parent, made)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except FileNotFoundError:  # another run removed the parent that it had made
            continue
        except OSError as error:
            raise InputError(
                f"the output folder cannot be made: {error.strerror}", where=str(folder), field="out",
            ) from error
        with ExitStack() as undo:
            undo.callback(os.close, descriptor)
            if not _take(descriptor, folder):
                lock.unlink(missing_ok=True)
                return None
            if _is_file(descriptor, lock):
                with contextlib.suppress(OSError):  # the process is named for messages: a full disk goes without
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                undo.pop_all()
                return descriptor
    raise InputError("the output folder cannot be locked: it comes and goes", where=str(folder), field="out")


def _take(descriptor: int, folder: Path) -> bool:
    """Lock the open file; False where the file system cannot, InputError where another run has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        who = "this process, in another thread" if process == str(os.getpid()) else f"process {process or 'unknown'}"
        raise InputError(
            f"another run is writing there: {who}", where=str(folder),
            field="out",
            hint="Wait until it has ended, or give another `out`.",
        ) from None
    except OSError:
        return False
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still is the open file: its holder may have removed it before it let go."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make `folder` and those above it; what was not there is appended to `made`."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        with contextlib.suppress(FileExistsError):
            parent.mkdir()
            made.append(parent)
