"""How fast this machine is, measured in a quarter of a second: convolutions, and values that pass through memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

PROBE_SECONDS = 0.12  # of each of the two probes
_LEAST_RUNS = 3
_BINS = 4096


@dataclass(frozen=True)
class Machine:
    """Args:
    gmacs: 10^9 multiply-accumulates a second of a 3x3 convolution.
    gvalues: 10^9 values a second that are quantized and counted in a histogram, in memory of their own.
    threads: that it was measured with.
    """

    gmacs: float
    gvalues: float
    threads: int

    def at(self, threads: int, exponent: float) -> Machine:
        """The same with another number of threads, where n are n^exponent times as fast as one."""
        times = (threads / self.threads) ** exponent
        return Machine(self.gmacs * times, self.gvalues * times, threads)


def measure_machine(clock: Callable[[], float] = time.perf_counter) -> Machine:
    """This machine as it is now, whatever else runs on it, at the process's number of threads."""
    with torch.no_grad():
        return Machine(
            _rate(_convolution(), clock) / 1e9, _rate(_values(), clock) / 1e9, torch.get_num_threads()
        )


def _rate(run: Callable[[], int], clock: Callable[[], float]) -> float:
    """Pieces of work a second of `run`, which returns how many it did, by the median call; the first warms up."""
    run()
    rates, start = [], clock()
    while len(rates) < _LEAST_RUNS or clock() - start < PROBE_SECONDS:
        before = clock()
        done = run()
        rates.append(done / max(clock() - before, 1e-9))
    return statistics.median(rates)


def _convolution() -> Callable[[], int]:
    x, weight = torch.ones(16, 64, 16, 16), torch.ones(64, 64, 3, 3)

    def run() -> int:
        return torch.nn.functional.conv2d(x, weight, padding=1).numel() * weight[0].numel()

    return run


def _values() -> Callable[[], int]:
    x = torch.linspace(-1, 1, 1 << 20)

    def run() -> int:
        codes = torch.round(x / 0.01).add_(128).clamp_(0, 255).sub_(128).mul_(0.01)
        index = ((codes + 1) / (2 / _BINS)).to(torch.int64).clamp_(0, _BINS - 1)
        counts = torch.zeros(_BINS, dtype=torch.float64)
        counts.scatter_add_(0, index, torch.ones_like(codes, dtype=torch.float64))
        counts.scatter_add_(0, index, codes.double())
        return x.numel()

    return run
