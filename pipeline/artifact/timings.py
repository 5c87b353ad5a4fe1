"""`timings.json`: how long a build took, and an inference. The one file that differs between two equal builds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from isobit.pipeline.artifact.manifest import TIMINGS
from isobit.pipeline.artifact.reading import read_bounded
from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.stages import EpochLog, UnitLog
from isobit.pipeline.watcher import Relay, Watcher


class Latency(BaseModel):
    """One inference of one sample on one thread of the machine that built, the artifact beside the float network.

    Args:
        processor: its name.
        runtime: what ran the artifact; `float_runtime`: what ran the network in float32.
        artifact_ms, float_ms: medians over `rounds`, in which both took turns.
        ratio: median of float over artifact in a round; `low`, `high`: its quartiles. Above 1 the artifact is faster.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    processor: str
    runtime: str
    float_runtime: str
    artifact_ms: float = Field(gt=0, le=1e9)
    float_ms: float = Field(gt=0, le=1e9)
    ratio: float = Field(gt=0, le=1e9)
    low: float = Field(gt=0, le=1e9)
    high: float = Field(gt=0, le=1e9)
    rounds: int = Field(gt=0)

    @property
    def over_float(self) -> tuple[float, float, float]:
        """Time over float as quartiles, which is what is shown: less is faster. The file holds the inverse."""
        return 1 / self.high, 1 / self.ratio, 1 / self.low

    @property
    def text(self) -> str:
        """`0.034 ms, float 0.052 ms; time over float 0.66 (0.64 to 0.67)`."""
        low, ratio, high = self.over_float
        return f"{self.artifact_ms:.3g} ms, float {self.float_ms:.3g} ms; time over float {ratio:.2f} " \
               f"({low:.2f} to {high:.2f})"

    @property
    def where(self) -> str:
        """On what: `one sample, one thread of AMD EPYC; ONNX Runtime 1.27, float by the same`."""
        by = "the same" if self.float_runtime == self.runtime else self.float_runtime
        return f"one sample, one thread of {self.processor}; {self.runtime}, float by {by}"


def read_latency(folder: Path) -> Latency | None:
    """What the build of `folder` measured; None where it measured none, or the file is no longer there.

    Raises:
        InputError: the file holds something else.
    """
    path = folder / TIMINGS
    try:
        found = json.loads(read_bounded(path)).get("latency")
        return None if found is None else Latency.model_validate(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"no times that can be read: {first_line(error)}", where=str(path), field="artifact",
                         hint="Build it again, or remove the file: nothing else needs it.") from error


class TimedStages(Relay):
    """A watcher that passes on all that it is told, and knows how long each stage took.

    Args:
        watcher: who is really told.
        clock: seconds, monotonic.

    Attributes:
        seconds: of every stage by name; the running one is not among them.
        cpu_seconds: the same of the processors, all threads together.
    """

    def __init__(
        self, watcher: Watcher, clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        super().__init__(watcher)
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._clocks = clock, cpu_clock
        self._current, self._began = "", self._now()

    def stage(self, name: str) -> None:
        """One stage ends and `name` begins."""
        self.end()
        self._current = name
        super().stage(name)

    def end(self) -> None:
        """The running stage is over."""
        now = self._now()
        if self._current:
            for found, end, start in zip((self.seconds, self.cpu_seconds), now, self._began, strict=True):
                found[self._current] = found.get(self._current, 0.0) + end - start
        self._current, self._began = "", now

    def _now(self) -> tuple[float, float]:
        return self._clocks[0](), self._clocks[1]()


def write_timings(
    folder: Path, expected: Mapping[str, Any], stages: Mapping[str, float], log: Iterable[UnitLog],
    trainings: Mapping[str, Sequence[EpochLog]], latency: Latency | None = None, *,
    cpu_stages: Mapping[str, float] | None = None, machine: Mapping[str, Any] | None = None,
) -> None:
    """Write `timings.json` into `folder`, all in seconds but the latency.

    Args:
        expected: what was said before calibration.
        stages: of the build, by name.
        log: one entry per reconstructed unit.
        trainings: epochs of what was trained as a whole, by what that was.
        latency: of one inference, where it was measured.
        cpu_stages: seconds of the processors, by stage.
        machine: where that was.
    """
    content: dict[str, Any] = {
        "machine": dict(machine or {}),
        "expected": dict(expected),
        "stages": {name: round(seconds, 3) for name, seconds in stages.items()},
        "cpu_stages": {name: round(seconds, 3) for name, seconds in (cpu_stages or {}).items()},
        "units": {unit.title: round(unit.seconds, 3) for unit in log},
        "epochs": {title: [round(epoch.seconds, 3) for epoch in epochs] for title, epochs in trainings.items()},
    }
    if latency is not None:
        content["latency"] = latency.model_dump()
    (folder / TIMINGS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
