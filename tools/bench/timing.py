"""Timing on a machine that others use too: thread CPU time, contenders interleaved, ratios within one round.

A round runs every contender once, forwards and then backwards (A B C, C B A), so that a slow phase of the machine hits
all of them; a ratio is taken inside a round and the median over rounds is reported with its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

WARM_UP = 2


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, block_seconds: float,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, list[float]]:
    """Seconds of one call, per round and contender.

    Args:
        contenders: what to run, by name; each must run wholly in the calling thread.
        rounds: even or odd; every second one runs in reversed order.
        block_seconds: how long one contender runs before the next one takes over.
        clock: CPU time of this thread, which waiting for a busy core does not advance.
    """
    calls = {name: _calls_for(run, block_seconds, clock) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in order:
            run = contenders[name]
            for _ in range(WARM_UP):  # caches hold what the previous contender left
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


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def summarize(times: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """By contender: `ms`, and `speed_over` every contender as quartiles of the per-round ratio (2.0: twice as fast)."""
    return {
        name: {
            "ms": [1000 * value for value in quartiles(own)],
            "speed_over": {
                base: list(quartiles([b / o for b, o in zip(other, own, strict=True)]))
                for base, other in times.items()
            },
        }
        for name, own in times.items()
    }
