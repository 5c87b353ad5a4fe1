"""The loop of a sweep: what is not done is started where there is room, until every cell is done or has failed.

Nothing but the disk is believed: an engine says that a process is over, and the artifact says whether the cell is done.
So drivers may be killed at any time, and any number of them may share a folder.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from isobit.sweep.cells import Cell
from isobit.sweep.engines import Ended, Engine
from isobit.sweep.folder import Runs
from isobit.sweep.lease import SECONDS, is_held
from isobit.sweep.process import BUSY, Task

DEATHS = 3  # of a cell's process without a word, after which the cell has failed
WAIT = 0.5  # seconds for an engine
LOOK = 2.0  # seconds between looks at cells that others build
RUNNING, ELSEWHERE, DONE, FAILED = "running", "elsewhere", "done", "failed"


class Watcher(Protocol):
    """Is told how a sweep goes."""

    def changed(self, cell: Cell, word: str, why: str = "") -> None:
        """A cell is `running`, built `elsewhere` by another driver, `done` or `failed`."""

    def tick(self) -> None:
        """Called about twice a second."""


@dataclass
class Driver:
    """One driver's view of a sweep.

    Args:
        task: makes what the process of a cell is told.
        lease: seconds after which a silent process of another host is dead.
    """

    cells: Sequence[Cell]
    runs: Runs
    engine: Engine
    watcher: Watcher
    task: Callable[[Cell], Task]
    lease: float = SECONDS
    clock: Callable[[], float] = time.monotonic
    _waiting: deque[Cell] = field(default_factory=deque)
    _running: dict[str, Cell] = field(default_factory=dict)
    _elsewhere: dict[str, Cell] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)
    _failed_before: dict[str, int | None] = field(default_factory=dict)
    _looked: float = 0.0

    def drive(self) -> Counter[str]:
        """Run until nothing is left; how many cells are done and how many failed."""
        counts: Counter[str] = Counter()
        for cell in self.cells:
            if self.runs.is_done(cell.name):
                self._end(cell, DONE, counts)
            else:
                self._failed_before[cell.name] = self.runs.failed_at(cell.name)
                self._waiting.append(cell)
        while self._waiting or self._running or self._elsewhere:
            self._start(counts)
            for ended in self.engine.ended(WAIT if self._running else 0.0):
                self._settle(ended, counts)
            if not self._running and not self._waiting and self._elsewhere:
                time.sleep(WAIT)
            self._look()
            self.watcher.tick()
        return counts

    def _start(self, counts: Counter[str]) -> None:
        """Fill the engine's free slots."""
        room = self.engine.slots() - len(self._running)
        while self._waiting and room > 0:
            cell = self._waiting.popleft()
            if self._is_over(cell, counts):
                continue
            if is_held(self.runs.work(cell.name), self.lease):
                self._leave(cell)
                continue
            self._running[cell.name] = cell
            self.watcher.changed(cell, RUNNING)
            self.engine.start(self.task(cell))
            room -= 1

    def _settle(self, ended: Ended, counts: Counter[str]) -> None:
        """What became of a cell whose process is over."""
        cell = self._running.pop(ended.cell)
        if self._is_over(cell, counts):
            return
        held = is_held(self.runs.work(cell.name), self.lease)
        if ended.code == BUSY and held:
            self._leave(cell)
            return
        self._deaths[cell.name] += 1  # also of `BUSY` where nobody has it: a model's own code may end with any code
        if self._deaths[cell.name] < DEATHS or held:
            self._waiting.appendleft(cell)
            return
        self.runs.fail(cell.name, "process", _death(ended.code))
        self._is_over(cell, counts)

    def _is_over(self, cell: Cell, counts: Counter[str]) -> bool:
        """Count a cell that is done, or that failed since this driver began."""
        if self.runs.is_done(cell.name):
            self._end(cell, DONE, counts)
            return True
        failed = self.runs.failed_at(cell.name)
        if failed is None or failed == self._failed_before[cell.name]:
            return False
        said = self.runs.failure(cell.name) or {}
        self._end(cell, FAILED, counts, f"{said.get('stage')}: {said.get('message')}")
        return True

    def _end(self, cell: Cell, word: str, counts: Counter[str], why: str = "") -> None:
        counts[word] += 1
        self.watcher.changed(cell, word, why)

    def _leave(self, cell: Cell) -> None:
        """Another process has it."""
        self._elsewhere[cell.name] = cell
        self.watcher.changed(cell, ELSEWHERE)

    def _look(self) -> None:
        """Cells of others come back when they are over or their process is dead."""
        now = self.clock()
        if now - self._looked < LOOK:
            return
        self._looked = now
        for name, cell in list(self._elsewhere.items()):
            if not is_held(self.runs.work(name), self.lease):
                del self._elsewhere[name]
                self._waiting.append(cell)


def _death(code: int | None) -> str:
    if code is None:
        return f"its host was lost {DEATHS} times"
    if code < 0:
        return f"ended by signal {-code}, {DEATHS} times" + (": killed, or out of memory" if code == -9 else "")
    return f"ended with code {code} and no word, {DEATHS} times"
