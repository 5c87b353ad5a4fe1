"""Stdout for one writer alone: whatever else is printed while a network runs goes to stderr.

A user's network is code of any kind: it may print from Python, from C, through a child process, or when the process
ends. So what moves is the file descriptor that all of them write to, and it stays moved until the process is over.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

STDOUT, STDERR = 1, 2


@contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Yield a stream to where stdout leads; from now on everybody else's stdout is stderr.

    For good where this process has a real stdout, as code may print up to its last moment. Where another object stands
    in for it, inside the process of a test, for as long as the block runs.
    """
    stream = sys.stdout
    if _is_real(stream):
        yield _moved(stream)
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield stream


def _is_real(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDOUT
    except (AttributeError, OSError, ValueError):  # None, without a descriptor (io.UnsupportedOperation), or closed
        return False


def _moved(stream: TextIO) -> TextIO:
    stream.flush()
    kept = os.dup(STDOUT)  # not inherited by child processes
    if kept == STDERR:  # which was closed: its number would be taken for stderr
        kept = os.dup(STDOUT)
        os.close(STDERR)
    try:
        os.dup2(STDERR, STDOUT)
    except OSError:  # there is no stderr
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STDOUT)
        os.close(nowhere)
    return io.TextIOWrapper(io.FileIO(kept, "w"), encoding=stream.encoding, errors=stream.errors, write_through=True)
