"""Timing on a machine that others use too: CPU time, contenders interleaved, ratios within one round, quartiles.

A round runs every contender once, forwards and then backwards (A B C, C B A), so that a slow phase of the machine hits
all of them; a ratio is taken inside a round and the median over rounds is reported with its quartiles.

Shipped inside each target's `run.py` (see `backends.device.standalone`): the standard library only, and the syntax of
Python 3.8.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from isobit.backends.device.processor import description, read_cpuinfo

WARM_UP = 2
ROUNDS = 31


class Contender(NamedTuple):
    """What is timed.

    Args:
        runtime: what runs it, with its version.
        run: computes one batch.
        note: what a reader must know of the number; may be empty.
    """

    runtime: str
    run: Callable[[], object]
    note: str = ""


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, block_seconds: float,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of one call, per round and contender.

    Args:
        contenders: what to run, by name.
        rounds: even or odd; every second one runs in reversed order.
        block_seconds: how long one contender runs before the next one takes over; at least one call.
        clock: CPU time of this process, which waiting for a busy core does not advance; see `clock_of`.
    """
    calls = {name: _calls_for(run, block_seconds, clock) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(reversed(list(contenders)))
        for name in order:
            run = contenders[name]
            # Caches hold what the previous contender left; a call that fills the block takes much longer than that.
            for _ in range(WARM_UP if calls[name] > 1 and len(contenders) > 1 else 0):
                run()
            start = clock()
            for _ in range(calls[name]):
                run()
            times[name].append((clock() - start) / calls[name])
    return times


def _calls_for(run: Callable[[], object], seconds: float, clock: Callable[[], float]) -> int:
    for _ in range(WARM_UP):
        run()
    start = clock()
    run()
    return max(1, round(seconds / max(clock() - start, 1e-6)))


def clock_of(threads: int) -> Callable[[], float]:
    """CPU time of this process; of several threads, whose CPU time is no latency, the time that passes."""
    return time.process_time if threads == 1 else time.perf_counter


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def ratios(own: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the ratio within each round."""
    return quartiles([one / two for one, two in zip(own, other)])  # noqa: B905 (Python 3.8)


def milliseconds(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles in milliseconds."""
    low, median, high = quartiles(seconds)
    return 1000 * low, 1000 * median, 1000 * high


def summarize(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """By contender: `ms`, and `speed_over` every contender as quartiles of the per-round ratio (2.0: twice as fast)."""
    return {
        name: {
            "ms": list(milliseconds(own)),
            "speed_over": {base: list(ratios(other, own)) for base, other in times.items()},
        }
        for name, own in times.items()
    }


def repeated(run: Callable[[], object], count: int) -> Callable[[], object]:
    """A batch for what computes one sample at a time: `count` calls."""

    def batch() -> None:
        for _ in range(count):
            run()

    return run if count == 1 else batch


def columns(base: str) -> tuple[str, ...]:
    """Titles of `cells`."""
    return ("contender", "runs in", "ms", "quartiles", "time over " + base, "quartiles", "note")


def cells(name: str, contender: Contender, own: Sequence[float], base: Sequence[float]) -> tuple[str, ...]:
    """A contender's line of the table.

    Args:
        own, base: seconds by round, of it and of the first contender.
    """
    low, median, high = (f"{value:.4g}" for value in milliseconds(own))
    least, ratio, most = (f"{value:.3f}" for value in ratios(own, base))
    return (name, contender.runtime, median, low + " to " + high, ratio, least + " to " + most, contender.note)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table as plain text, its columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*lines)]  # noqa: B905 (Python 3.8)
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()  # noqa: B905 (Python 3.8)
            for line in lines]


def clock_name(threads: int) -> str:
    """What `clock_of` counts, for people."""
    return "CPU time" if threads == 1 else "time that passed"


def available_cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # on Linux; a container or `taskset` may leave out some
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def conditions(threads: int, batch: int, rounds: int) -> str:
    """Under what was measured, for people."""
    cores = available_cores()
    count = f"{threads} thread{'' if threads == 1 else 's'}" + (f" on {cores} cores" if threads > cores else "")
    return (f"{description(read_cpuinfo())}; {count}, batch {batch}; medians and quartiles of "
            f"the {rounds} rounds of one run, {clock_name(threads)}")
