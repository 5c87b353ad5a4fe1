"""One holder at a time; a dead one keeps nobody, in this process and across real ones."""

from __future__ import annotations

import os
import threading

from isobit.sweep import lease as leases
from isobit.sweep.lease import FREE, PREFIX, Lease, holder, host, is_held, started, take
from tests.examples.processes import running

HOLD = """
import sys, time
from pathlib import Path
from isobit.sweep.lease import take
held = take(Path(sys.argv[1]))
print("held" if held else "busy", flush=True)
time.sleep(600)
"""
RACE = """
import sys, time
from pathlib import Path
from isobit.sweep.lease import take
here = Path(sys.argv[1])
print("ready", flush=True)
while not (here / "go").exists():
    pass
print(sum(take(here / str(turn)) is not None for turn in range(100)), flush=True)
time.sleep(600)
"""


def test_a_lease_is_held_once_and_free_again_when_it_is_given_up(tmp_path):
    first = take(tmp_path)
    assert first is not None and is_held(tmp_path) and take(tmp_path) is None
    assert holder(tmp_path) == (host(), os.getpid())
    first.give_up()
    assert not is_held(tmp_path) and holder(tmp_path) is None
    second = take(tmp_path)
    assert second is not None and second.number == first.number + 1


def test_a_killed_process_keeps_nobody(tmp_path):
    with running(HOLD, tmp_path, "held") as process:
        assert take(tmp_path) is None and holder(tmp_path) == (host(), process.pid)
        process.kill()
        process.wait()
        assert not is_held(tmp_path) and take(tmp_path) is not None
        assert take(tmp_path) is None


def test_of_processes_that_race_one_wins_each_time(tmp_path):
    with running(RACE, tmp_path, "ready") as one, running(RACE, tmp_path, "ready") as other:
        (tmp_path / "go").touch()
        assert int(one.stdout.readline()) + int(other.stdout.readline()) == 100


def test_who_looked_before_another_took_it_does_not_get_it(tmp_path, monkeypatch):
    dead = take(tmp_path)
    (tmp_path / f"{PREFIX}{dead.number:06d}").write_text(FREE)
    seen = leases._highest(tmp_path)
    other = take(tmp_path)
    other.give_up()
    monkeypatch.setattr(leases, "_highest", lambda folder: seen)  # what it saw then
    assert take(tmp_path) is None


def test_another_host_is_believed_while_it_renews(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "host", lambda: "elsewhere")
    far = take(tmp_path, seconds=60)
    monkeypatch.undo()
    assert is_held(tmp_path, seconds=60) and take(tmp_path, seconds=60) is None
    stale = far.path.stat().st_mtime - 100
    os.utime(far.path, (stale, stale))
    assert not is_held(tmp_path, seconds=60)
    far.renew()
    assert is_held(tmp_path, seconds=60)


def test_a_holder_that_was_taken_for_dead_is_told(tmp_path):
    held = take(tmp_path)
    (tmp_path / f"{PREFIX}{held.number + 1:06d}").write_text("{}")  # another host took it
    assert not held.renew()
    told = threading.Event()
    with Lease(held.path, seconds=0.08).renewed(told.set):
        assert told.wait(30)


def test_half_a_lease_is_judged_by_its_age(tmp_path):
    path = tmp_path / f"{PREFIX}000001"
    path.touch()  # killed between making the file and writing it
    assert is_held(tmp_path)
    os.utime(path, (0, 0))
    assert not is_held(tmp_path)


def test_a_process_number_that_came_again_is_another_process(tmp_path):
    assert started(os.getpid()) == started(os.getpid()) != ""
    held = take(tmp_path)
    held.path.write_text(held.path.read_text().replace(started(os.getpid()), "1"))
    assert not is_held(tmp_path)


def test_other_files_are_no_leases(tmp_path):
    (tmp_path / f"{PREFIX}000001 (copy)").touch()
    assert not is_held(tmp_path) and take(tmp_path).number == 1


def test_few_files_are_left(tmp_path):
    for _ in range(8):
        take(tmp_path).give_up()
    assert len(list(tmp_path.iterdir())) == 2
