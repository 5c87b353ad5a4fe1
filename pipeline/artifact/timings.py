"""`timings.json`: how long a build took. The one file of an artifact that differs between two equal builds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isobit.pipeline.artifact.manifest import TIMINGS
from isobit.pipeline.stages import EpochLog, UnitLog
from isobit.pipeline.watcher import Relay, Watcher


class TimedStages(Relay):
    """A watcher that passes on all that it is told, and knows how long each stage took.

    Args:
        watcher: who is really told.
        clock: seconds, monotonic.

    Attributes:
        seconds: of every stage by name; the running one is not among them.
    """

    def __init__(self, watcher: Watcher, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(watcher)
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._current, self._began = "", clock()

    def stage(self, name: str) -> None:
        """One stage ends and `name` begins."""
        self.end()
        self._current = name
        super().stage(name)

    def end(self) -> None:
        """The running stage is over."""
        now = self._clock()
        if self._current:
            self.seconds[self._current] = self.seconds.get(self._current, 0.0) + now - self._began
        self._current, self._began = "", now


def write_timings(
    folder: Path, expected: Mapping[str, Any], stages: Mapping[str, float], log: Iterable[UnitLog],
    trainings: Mapping[str, Sequence[EpochLog]],
) -> None:
    """Write `timings.json` into `folder`, all in seconds.

    Args:
        expected: what was said before calibration.
        stages: of the build, by name.
        log: one entry per reconstructed unit.
        trainings: epochs of what was trained as a whole, by what that was.
    """
    content = {
        "expected": dict(expected),
        "stages": {name: round(seconds, 3) for name, seconds in stages.items()},
        "units": {unit.title: round(unit.seconds, 3) for unit in log},
        "epochs": {title: [round(epoch.seconds, 3) for epoch in epochs] for title, epochs in trainings.items()},
    }
    (folder / TIMINGS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
