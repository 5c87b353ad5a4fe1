"""What is told of a sweep."""

from __future__ import annotations

import io

from rich.console import Console

from isobit.sweep.drive import DONE, ELSEWHERE, FAILED, RUNNING
from isobit.sweep.screen import Screen, duration
from tests.examples.sweeps import cell

CELLS = [cell(name) for name in ("one", "two", "[red]three", "four")]


class Clock:
    """Seconds, as a test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(live: bool) -> tuple[str, Screen]:
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, force_terminal=live, width=200, markup=False, highlight=False, color_system=None)
    with Screen(CELLS, console, clock=clock) as screen:
        screen.changed(CELLS[0], DONE)  # it was there
        screen.changed(CELLS[1], RUNNING)
        screen.changed(CELLS[2], ELSEWHERE)
        clock.now = 10.0
        screen.changed(CELLS[1], DONE)
        screen.changed(CELLS[2], FAILED, "capture: [bold]why")
        screen.changed(CELLS[3], RUNNING)
        screen.tick()
    return text.getvalue(), screen


def test_one_plain_line_an_event_where_there_is_no_terminal():
    text, _ = told(live=False)
    assert text.splitlines() == [
        f"[1 of 4 done]  running {CELLS[1].name}", f"[1 of 4 done]  elsewhere {CELLS[2].name}",
        f"[2 of 4 done, about 20 s left]  done {CELLS[1].name} in 10 s",
        f"[2 of 4 done, 1 failed, about 5 s left]  failed {CELLS[2].name}: capture: [bold]why",
        f"[2 of 4 done, 1 failed, about 5 s left]  running {CELLS[3].name}",
    ]


def test_a_live_table_on_a_terminal():
    text, screen = told(live=True)
    assert CELLS[3].name in text and "capture: [bold]why" in text and "2 of 4 done, 1 failed" in text
    assert screen.table().row_count == 2


def test_time_left_is_told_once_something_was_built():
    screen = Screen(CELLS, Console(file=io.StringIO()), clock=Clock())
    screen.changed(CELLS[0], DONE)
    assert screen.seconds_left() is None


def test_durations():
    assert [duration(seconds) for seconds in (8, 89, 600, 9000)] == ["8 s", "89 s", "10 min", "2.5 h"]
