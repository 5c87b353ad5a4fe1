"""Who is told what happens during a build: a small protocol, silent by default; the terminal implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.recipe.allocation import Allocation
from isobit.pipeline.stages import EpochLog, Quantized, UnitLog


class CalibrationWatcher(Protocol):
    """Progress of calibration."""

    def units(self, total: int, steps: int) -> None:
        """Reconstruction starts: this many units, this many steps each."""
        ...

    def step(self, count: int) -> None:
        """So many more steps are done."""
        ...

    def done(self, log: UnitLog) -> None:
        """A unit is hardened."""
        ...

    def training(self, epochs: int, steps: int) -> None:
        """Training of the whole network starts: this many epochs, this many steps each."""
        ...

    def epoch(self, log: EpochLog) -> None:
        """An epoch is over; one without seconds comes from a checkpoint."""
        ...

    def note(self, text: str) -> None:
        """Something to know at once that is no fault; it is in the report as well."""
        ...


class Watcher(CalibrationWatcher, Protocol):
    """Progress of a whole build."""

    def planned(self, quantized: Quantized, placement: Sequence[PlacementRow]) -> None:
        """Quantizers are placed; nothing was read yet. `placement` holds rows of `backends.placement`."""
        ...

    def expected(self, text: str) -> None:
        """What a build will cost, time or memory, before anything is made or calibrated; may come more than once."""
        ...

    def stage(self, name: str) -> None:
        """A stage of the build starts."""
        ...

    def allocating(self, done: int, total: int) -> None:
        """So many pieces of the work of measuring sensitivities are done."""
        ...

    def allocated(self, allocation: Allocation) -> None:
        """The bits of every layer are chosen."""
        ...

    def tried(self, text: str) -> None:
        """A search tried one choice of bits: what it takes, what it loses."""
        ...

    def proving(self, done: int, total: int) -> None:
        """So many samples of the evaluation set are compared."""
        ...


class Quiet:
    """Says nothing."""

    def planned(self, quantized: Quantized, placement: Sequence[PlacementRow]) -> None:
        """Nothing."""

    def expected(self, text: str) -> None:
        """Nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def units(self, total: int, steps: int) -> None:
        """Nothing."""

    def step(self, count: int) -> None:
        """Nothing."""

    def done(self, log: UnitLog) -> None:
        """Nothing."""

    def training(self, epochs: int, steps: int) -> None:
        """Nothing."""

    def epoch(self, log: EpochLog) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def allocating(self, done: int, total: int) -> None:
        """Nothing."""

    def allocated(self, allocation: Allocation) -> None:
        """Nothing."""

    def tried(self, text: str) -> None:
        """Nothing."""

    def proving(self, done: int, total: int) -> None:
        """Nothing."""


class Relay:
    """Passes on all that it is told.

    Args:
        watcher: who is really told.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    def planned(self, quantized: Quantized, placement: Sequence[PlacementRow]) -> None:
        """Passes it on."""
        self.watcher.planned(quantized, placement)

    def expected(self, text: str) -> None:
        """Passes it on."""
        self.watcher.expected(text)

    def stage(self, name: str) -> None:
        """Passes it on."""
        self.watcher.stage(name)

    def units(self, total: int, steps: int) -> None:
        """Passes it on."""
        self.watcher.units(total, steps)

    def step(self, count: int) -> None:
        """Passes it on."""
        self.watcher.step(count)

    def done(self, log: UnitLog) -> None:
        """Passes it on."""
        self.watcher.done(log)

    def training(self, epochs: int, steps: int) -> None:
        """Passes it on."""
        self.watcher.training(epochs, steps)

    def epoch(self, log: EpochLog) -> None:
        """Passes it on."""
        self.watcher.epoch(log)

    def note(self, text: str) -> None:
        """Passes it on."""
        self.watcher.note(text)

    def allocating(self, done: int, total: int) -> None:
        """Passes it on."""
        self.watcher.allocating(done, total)

    def allocated(self, allocation: Allocation) -> None:
        """Passes it on."""
        self.watcher.allocated(allocation)

    def tried(self, text: str) -> None:
        """Passes it on."""
        self.watcher.tried(text)

    def proving(self, done: int, total: int) -> None:
        """Passes it on."""
        self.watcher.proving(done, total)
