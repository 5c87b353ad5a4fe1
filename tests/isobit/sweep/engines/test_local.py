"""Processes of this machine: how many, which end, which GPUs they see."""

from __future__ import annotations

import signal
import sys

import pytest

from isobit.pipeline.errors import InputError
from isobit.sweep.engines import Settings, local, open_engine
from isobit.sweep.process import Task
from isobit.sweep.study import Resources

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def settings(jobs=None, **resources):
    return Settings(Resources(**resources), jobs, None, "", {})


def task(name):
    return Task(name, "", (), "")


def all_of(engine, count):
    found = {}
    while len(found) < count:
        found |= {ended.cell: ended.code for ended in engine.ended(0.2)}
    return found


def test_exit_codes_and_signals_come_back(monkeypatch):
    monkeypatch.setattr(local, "command", lambda one: [sys.executable, "-c", f"import sys; sys.exit({one.cell})"])
    engine = open_engine("local", settings(jobs=2))
    assert engine.slots() == 2 and engine.ended(0.0) == []
    for name in ("0", "3"):
        engine.start(task(name))
    assert all_of(engine, 2) == {"0": 0, "3": 3}
    monkeypatch.setattr(local, "command", lambda one: SLEEP)
    engine.start(task("killed"))
    engine._running["killed"][0].kill()
    assert all_of(engine, 1) == {"killed": -signal.SIGKILL}
    engine.start(task("closed"))
    process = engine._running["closed"][0]
    engine.close()
    assert process.returncode == -signal.SIGTERM


def test_gpus_are_shared_out_and_come_back(monkeypatch, tmp_path):
    program = f"import os; open(r'{tmp_path}' + '/' + os.environ['CUDA_VISIBLE_DEVICES'], 'a').close()"
    monkeypatch.setattr(local, "command", lambda one: [sys.executable, "-c", program])
    engine = local.LocalEngine(8, ["0", "1"])
    assert engine.slots() == 2
    for turn in range(2):
        engine.start(task(f"a{turn}"))
        engine.start(task(f"b{turn}"))
        all_of(engine, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"] and sorted(engine._free) == ["0", "1"]


@pytest.mark.parametrize(("wanted", "expected"), [
    (0, []), (1, ["0", "1", "2"]), (2, ["0,1"]), (0.5, ["0", "0", "1", "1", "2", "2"])])
def test_shares_of_three_gpus(monkeypatch, wanted, expected):
    monkeypatch.setattr(local.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 3)
    assert local._shares(wanted) == expected


@pytest.mark.parametrize(("resources", "field"), [
    ({"memory": 1e6}, "resources.memory"), ({"cpus": 1000}, "resources.cpus"), ({"gpus": 64}, "resources.gpus")])
def test_a_cell_that_fits_nowhere_is_refused(resources, field):
    with pytest.raises(InputError, match="no room") as found:
        open_engine("local", settings(**resources))
    assert found.value.field == field


def test_an_engine_that_is_none_names_those_there_are():
    with pytest.raises(InputError, match="no engine 'slrum'") as found:
        open_engine("slrum", settings())
    assert found.value.field == "engine" and "slurm" in found.value.allowed
