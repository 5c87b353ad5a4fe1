"""On how many threads modules run: TVM's pool of the thread that calls them.

Told nothing, the pool takes all cores, keeps its threads on a core each, and lets them wait for long without sleep.
Shipped inside `run.py`: the standard library and tvm_ffi only, and the syntax of Python 3.8.
"""

from __future__ import annotations

import os
import threading

MOST_THREADS = 256
COUNT, BIND, WAIT = "TVM_NUM_THREADS", "TVM_BIND_THREADS", "TVM_THREAD_POOL_SPIN_COUNT"
SPINS = 10_000  # milliseconds: longer than what a network computes between two loops that threads share
ANY_CORE = -3  # TVM's name of it: kSpecifyThreadShareAllCore

_made = threading.local()  # `pool`: this thread told TVM to make one


def use_threads(count: int) -> None:
    """Run the modules that this thread calls on `count` threads from now on; what they compute does not change.

    A thread that has called none yet takes the last number given anywhere in the process. More threads than cores only
    take longer. A runtime library must be loaded.

    Raises:
        ValueError: TVM's pool of this thread was made for fewer, and cannot grow.
    """
    os.environ[COUNT] = str(count)
    for name, value in ((BIND, "0"), (WAIT, str(SPINS))):
        os.environ.setdefault(name, value)
    if count == 1 and not getattr(_made, "pool", False):
        return  # without a pool: the variable says all
    import tvm_ffi

    _made.pool = True
    tvm_ffi.get_global_func("runtime.config_threadpool")(ANY_CORE, count, [str(core) for core in range(count)])
    found = tvm_ffi.get_global_func("runtime.NumThreads")()
    if found != count:
        raise ValueError(
            "modules run on " + str(found) + " threads here, not on " + str(count) + ": TVM's pool of a thread does "
            "not grow; ask for the largest number first, or call modules from another thread")
