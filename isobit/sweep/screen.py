"""How a sweep goes, on stderr: a live table on a terminal, one line an event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from isobit.sweep.cells import Cell
from isobit.sweep.drive import DONE, ELSEWHERE, FAILED, RUNNING

SHOWN = 12  # cells that run, and of those that failed
STYLES = {RUNNING: "bold", ELSEWHERE: "dim", FAILED: "bold red"}


class Screen:
    """Implements `isobit.sweep.drive.Watcher`.

    Args:
        events: where it is told.
        refreshed: called about twice a second, for what else is to be kept up to date.
    """

    def __init__(
        self, cells: Sequence[Cell], events: Console, refreshed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._events, self._refreshed, self._clock = len(cells), events, refreshed, clock
        self._word: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._why: dict[str, str] = {}
        self._began, self._built, self._at_start = clock(), 0, 0
        self._live = Live(console=events, auto_refresh=False, transient=True) if events.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, cell: Cell, word: str, why: str = "") -> None:
        known = self._word.get(cell.name)
        self._word[cell.name] = word
        if word in (DONE, FAILED):
            self._built += known is not None
            self._at_start += known is None
        if word == FAILED:
            self._why[cell.name] = why
        if word == known or (word == DONE and known is None):
            return
        seconds = self._clock() - self._since.get(cell.name, self._clock())
        self._since[cell.name] = self._clock()
        if self._live is None:
            took = f" in {seconds:.0f} s" if word in (DONE, FAILED) and known == RUNNING else ""
            reason = f": {why}" if why else ""
            self._events.print(Text(f"{self.counts()}  {word} {cell.name}{took}{reason}"), soft_wrap=True)

    def tick(self) -> None:
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        self._refreshed()

    def counts(self) -> str:
        """`[12 of 60 done, 1 failed]`, with the time left where it can be told."""
        found = Counter(self._word.values())
        failed = f", {found[FAILED]} failed" if found[FAILED] else ""
        seconds = self.seconds_left()
        left = "" if seconds is None else f", about {duration(seconds)} left"
        return f"[{found[DONE]} of {self._total} done{failed}{left}]"

    def seconds_left(self) -> float | None:
        """From the pace of this call; None before anything was built."""
        left = self._total - self._built - self._at_start
        return (self._clock() - self._began) / self._built * left if self._built and left else None

    def table(self) -> Table:
        """Cells that run and that failed, the longest first."""
        table = Table(box=SIMPLE_HEAD, title=Text(self.counts()), title_justify="left", pad_edge=False)
        for column in ("cell", "is", "for"):
            table.add_column(column, overflow="fold")
        for word in (RUNNING, ELSEWHERE, FAILED):
            names = [name for name, known in self._word.items() if known == word]
            for name in names[:SHOWN]:
                told = self._why.get(name, "") if word == FAILED else duration(self._clock() - self._since[name])
                table.add_row(Text(name), Text(word, style=STYLES[word]), Text(told))
            if len(names) > SHOWN:
                table.add_row(Text(f"and {len(names) - SHOWN} more"), Text(word, style=STYLES[word]), Text(""))
        return table


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
