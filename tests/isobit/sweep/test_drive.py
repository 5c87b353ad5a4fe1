"""The loop, with an engine that does as a test says: what stands on disk is what counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isobit.sweep import drive as module
from isobit.sweep.drive import DEATHS, Driver
from isobit.sweep.engines import Ended
from isobit.sweep.folder import Runs
from isobit.sweep.lease import take
from isobit.sweep.process import BUSY, Task
from tests.examples.sweeps import cell


class Scripted:
    """An engine: a process of a cell is what `behave(cell name, how often it was started before)` does and returns."""

    def __init__(self, behave: Callable[[str, int], int | None], slots: int = 2) -> None:
        self.behave, self._slots, self.started, self.most = behave, slots, [], 0
        self.running: list[str] = []

    def slots(self) -> int:
        return self._slots

    def start(self, task: Task) -> None:
        self.running.append(task.cell)
        self.most = max(self.most, len(self.running))
        self.started.append(task.cell)

    def ended(self, seconds: float) -> list[Ended]:
        over, self.running = self.running[:1], self.running[1:]
        return [Ended(name, self.behave(name, self.started.count(name))) for name in over]

    def close(self) -> None:
        self.running.clear()


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.words: list[tuple[str, str, str]] = []

    def changed(self, one, word, why=""):
        self.words.append((one.model, word, why))

    def tick(self):
        pass


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Looks at other drivers' cells follow each other at once."""
    monkeypatch.setattr(module, "WAIT", 0.0)
    monkeypatch.setattr(module, "LOOK", 0.0)


def drive(runs, cells, engine, watcher=None):
    runs.make()
    return Driver(cells, runs, engine, watcher or Told(), lambda one: Task(one.name, str(runs.root), (), "")).drive()


def build(runs, name) -> int:
    runs.artifact(name).mkdir(parents=True, exist_ok=True)
    (runs.artifact(name) / "manifest.json").write_text("{}")
    return 0


def test_every_cell_is_built_once_and_a_second_call_builds_none(tmp_path):
    runs, cells = Runs(tmp_path), [cell(name) for name in "abcde"]
    engine = Scripted(lambda name, _: build(runs, name))
    assert drive(runs, cells, engine) == {"done": 5} and engine.most == 2
    assert engine.started == [one.name for one in cells]
    again = Scripted(lambda name, _: build(runs, name))
    assert drive(runs, cells, again) == {"done": 5} and not again.started


def test_a_failure_fails_its_cell_alone_and_is_tried_again_by_the_next_call(tmp_path):
    runs, cells, watcher = Runs(tmp_path), [cell("a"), cell("b")], Told()

    def behave(name, times):
        if name.startswith("a"):
            runs.fail(name, "capture", "no such model")
            return 2
        return build(runs, name)

    engine = Scripted(behave)
    assert drive(runs, cells, engine, watcher) == {"failed": 1, "done": 1}
    assert engine.started.count(cells[0].name) == 1 and ("a", "failed", "capture: no such model") in watcher.words
    again = Scripted(lambda name, _: build(runs, name))
    assert drive(runs, cells, again) == {"done": 2} and again.started == [cells[0].name]


def test_a_dead_process_is_started_again_and_fails_in_the_end(tmp_path):
    runs, cells = Runs(tmp_path), [cell("a"), cell("b")]
    engine = Scripted(lambda name, times: build(runs, name) if name.startswith("b") and times == DEATHS else -9)
    assert drive(runs, cells, engine) == {"failed": 1, "done": 1}
    assert [engine.started.count(one.name) for one in cells] == [DEATHS, DEATHS]
    assert "signal 9" in runs.failure(cells[0].name)["message"]
    lost = Scripted(lambda name, times: None)
    assert drive(runs, cells, lost) == {"failed": 1, "done": 1} and "host" in runs.failure(cells[0].name)["message"]


def test_a_process_that_ends_as_if_another_had_the_cell_fails_in_the_end(tmp_path):
    runs, one = Runs(tmp_path), cell("a")
    engine = Scripted(lambda name, times: BUSY)  # `os._exit(75)` in a model's own code
    assert drive(runs, [one], engine) == {"failed": 1} and len(engine.started) == DEATHS


def test_an_artifact_counts_whatever_its_process_said(tmp_path):
    runs, one = Runs(tmp_path), cell("a")
    engine = Scripted(lambda name, _: build(runs, name) - 11)  # built, then died
    assert drive(runs, [one], engine) == {"done": 1} and len(engine.started) == 1


def test_cells_of_another_driver_are_left_to_it(tmp_path):
    runs, cells, watcher = Runs(tmp_path), [cell("a"), cell("b")], Told()
    held = take(runs.work(cells[0].name))

    def behave(name, _):
        build(runs, cells[0].name)  # the other driver is done with its cell now
        held.give_up()
        return build(runs, name)

    engine = Scripted(behave)
    assert drive(runs, cells, engine, watcher) == {"done": 2}
    assert engine.started == [cells[1].name] and ("a", "elsewhere", "") in watcher.words


def test_a_cell_that_another_process_took_first_is_waited_for(tmp_path):
    runs, one, held = Runs(tmp_path), cell("a"), []

    def behave(name, times):
        if times > 1:
            return build(runs, name)
        held.append(take(runs.work(name)))
        return BUSY

    def look():
        held.pop().give_up() if held else None  # it died: the cell is free again
        return 0.0

    runs.make()
    engine, watcher = Scripted(behave), Told()
    driver = Driver([one], runs, engine, watcher, lambda c: Task(c.name, str(tmp_path), (), ""), clock=look)
    assert driver.drive() == {"done": 1} and len(engine.started) == 2 and ("a", "elsewhere", "") in watcher.words


def test_what_another_driver_failed_meanwhile_is_not_tried_again_by_this_one(tmp_path):
    runs, cells = Runs(tmp_path), [cell("a"), cell("b")]

    def behave(name, _):
        runs.fail(cells[1].name, "capture", "by another driver")
        return build(runs, name)

    engine = Scripted(behave, slots=1)
    assert drive(runs, cells, engine) == {"done": 1, "failed": 1} and engine.started == [cells[0].name]
