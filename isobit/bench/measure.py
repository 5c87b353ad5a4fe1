"""Candidates timed in turns in this process, what could not be timed, and all of it as rows and as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isobit import __version__
from isobit.backends.base import BACKENDS
from isobit.backends.device.processor import description, read_cpuinfo, this_machine
from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import (
    ROUNDS,
    Contender,
    cells,
    clock_of,
    columns,
    interleave,
    milliseconds,
    quartiles,
    ratios,
)
from isobit.bench.candidates import Candidate
from isobit.bench.peers import PACKAGES, quiet
from isobit.pipeline.artifact.manifest import package_versions
from isobit.pipeline.errors import CompileError, InputError, first_line

SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        threads: of each contender.
        batch: samples at once; what takes one at a time computes them one after the other.
        rounds: of taking turns.
        seconds: how long each contender runs, all rounds together.
    """

    threads: int = 1
    batch: int = 1
    rounds: int = ROUNDS
    seconds: float = SECONDS


@dataclass(frozen=True)
class Measured:
    """What came out; ratios are over the first of `times`.

    Args:
        contenders: by name, what was timed.
        times: seconds of one batch by name and round.
        missing: by name, why others were not timed.
    """

    settings: Settings
    candidates: Sequence[Candidate]
    contenders: Mapping[str, Contender]
    times: Mapping[str, Sequence[float]]
    missing: Mapping[str, str]

    @property
    def base(self) -> str:
        """The name of the first."""
        return next(iter(self.times))

    @property
    def failed(self) -> list[str]:
        """Names of those that had to be timed and were not."""
        return [candidate.name for candidate in self.candidates
                if candidate.required and candidate.name in self.missing]

    def columns(self) -> tuple[str, ...]:
        """Titles of `rows`."""
        return columns(self.base)

    def rows(self) -> list[tuple[str, ...]]:
        """A line for each contender, as `run.py --bench` has it."""
        return [cells(name, self.contenders[name], own, self.times[self.base]) for name, own in self.times.items()]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        runtimes = (name for backend in BACKENDS.loaded().values() for name in backend.packages)
        return {
            "isobit": __version__, "processor": description(read_cpuinfo()), "machine": this_machine(),
            "cores": os.cpu_count(), "packages": package_versions("numpy", *runtimes, *PACKAGES),
            **asdict(self.settings), "clock": "cpu" if self.settings.threads == 1 else "wall", "base": self.base,
            "contenders": [self._entry(candidate) for candidate in self.candidates if candidate.name in self.times],
            "not_measured": [{"name": name, "why": why} for name, why in self.missing.items()],
        }

    def _entry(self, candidate: Candidate) -> dict[str, Any]:
        """One contender; lists are lower quartile, median, upper quartile."""
        contender, times = self.contenders[candidate.name], self.times[candidate.name]
        return {
            "name": candidate.name, "kind": candidate.kind, **candidate.facts, "runtime": contender.runtime,
            "note": contender.note, "ms": list(milliseconds(times)),
            "time_over_base": list(ratios(times, self.times[self.base])),
            "samples_per_second": self.settings.batch / quartiles(times)[1],
        }


def measure(candidates: Sequence[Candidate], settings: Settings) -> Measured:
    """Open every candidate, and time in turns what runs.

    Raises:
        InputError: none of them runs.
    """
    contenders: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for candidate in candidates:
        try:
            with quiet():
                contender = candidate.open(settings.batch, settings.threads)
                contender.run()
        except Exception as error:  # of any runtime: the others go on
            missing[candidate.name] = _why(error)
        else:
            contenders[candidate.name] = contender
    if not contenders:
        reasons = "; ".join(f"{name}: {why}" for name, why in missing.items())
        raise InputError("nothing could be measured", where=reasons)
    runs = {name: contender.run for name, contender in contenders.items()}
    times = interleave(runs, settings.rounds, settings.seconds / settings.rounds, clock_of(settings.threads))
    return Measured(settings, candidates, contenders, times, missing)


def _why(error: Exception) -> str:
    """An error in a sentence: ours as they are."""
    if isinstance(error, CompileError):
        return f"{error.what}{f' ({error.hint})' if error.hint else ''}"
    return str(error) if isinstance(error, CannotCheck) or type(error) is ValueError else first_line(error)
