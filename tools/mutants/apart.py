"""A function in a process of its own, whose end by a signal ends nothing else."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SECONDS = 300  # until a process that goes round for ever is stopped


def apart(function: Callable[[], T], seconds: int = SECONDS) -> T | None:
    """What `function` returns in a child process, whose errors nobody reads.

    None where a signal ends it, or it takes longer than `seconds`.

    Raises:
        RuntimeError: the function has let an exception through, which it must not.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(read)
            faulthandler.disable()
            signal.alarm(seconds)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)  # of a crash, libraries tell more than anybody reads
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(function(), pipe)
            code = 0
        finally:
            os._exit(code)  # without what the parent registered for its own end
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status > 0:
        raise RuntimeError(f"the process of {function} ended with {status}")
    return None if status < 0 else pickle.loads(said)
