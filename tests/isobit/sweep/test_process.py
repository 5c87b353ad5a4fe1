"""The process of a cell: real ones, one of them killed in the middle of its build."""

from __future__ import annotations

import signal
import subprocess

import pytest

from isobit.cli.artifacts.sweep import model_options
from isobit.sweep.cells import cells_of
from isobit.sweep.folder import Runs
from isobit.sweep.hashes import files_sha256
from isobit.sweep.lease import is_held, take
from isobit.sweep.process import BUSY, OTHER_CODE, Task, command, environment, run
from isobit.sweep.study import load_study
from tests.examples.sweeps import given, study, wait_for


def task_of(path, runs):
    (cell,) = cells_of(load_study(path, model_options()))
    runs.make()
    return Task(cell.name, str(runs.root), cell.words, files_sha256())


def start(task):
    return subprocess.Popen(command(task), env=environment(task))


def events(runs, task):
    return [line["event"] for line in runs.attempts(task.cell)]


@pytest.mark.slow
def test_a_killed_build_leaves_the_cell_free_and_the_next_one_builds_it(tmp_path):
    runs = Runs(tmp_path / "runs")
    task = task_of(study(tmp_path, models=[given(tmp_path, gate=tmp_path)]), runs)
    process = start(task)
    wait_for((tmp_path / "started").exists, process)
    assert is_held(runs.work(task.cell)) and not runs.is_done(task.cell)
    assert subprocess.run(command(task), env=environment(task)).returncode == BUSY  # the same cell, meanwhile
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not is_held(runs.work(task.cell)) and runs.failure(task.cell) is None
    (tmp_path / "go").touch()
    assert start(task).wait() == 0 and runs.is_done(task.cell)
    assert events(runs, task) == ["started", "started", "built"]
    assert start(task).wait() == 0 and events(runs, task)[-1] == "built"  # nothing is built twice
    assert [path.name for path in (runs.root / "cells").iterdir()] == [task.cell]


def test_what_a_build_says_of_its_failure_is_the_record_and_a_stop_is_none(tmp_path):
    runs = Runs(tmp_path / "runs")
    task = task_of(study(tmp_path, models=[{"file": "none.pth", "calib_data": "none.npz"}]), runs)
    assert start(task).wait() == 2
    said = runs.failure(task.cell)
    assert said["stage"] == "input" and "none.pth" in said["message"] and said["exit_code"] == 2
    assert events(runs, task) == ["started", "failed"] and not is_held(runs.work(task.cell))
    stopped = task_of(study(tmp_path, models=[given(tmp_path, gate=tmp_path)]), runs)
    process = start(stopped)
    wait_for((tmp_path / "started").exists, process)
    process.terminate()
    assert process.wait() == 130 and runs.failure(stopped.cell) is None and events(runs, stopped)[-1] == "stopped"


def test_a_host_with_other_code_builds_nothing(tmp_path):
    runs = Runs(tmp_path)
    task = Task("cell", str(tmp_path), ("model",), "code of the driver")
    assert run(task) == OTHER_CODE and "not what the sweep began with" in runs.failure("cell")["message"]


def test_a_task_survives_its_text_and_names_threads_and_gpus(monkeypatch):
    task = Task("cell", "runs", ("a", "--set", "b=1"), "c", threads=3, gpu=True, lease=9.0)
    assert Task.from_json(task.to_json()) == task and command(task)[-1] == task.to_json()
    assert environment(task, "1,2")["CUDA_VISIBLE_DEVICES"] == "1,2" and environment(task)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert environment(task)["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment(Task("cell", "runs", (), "c"))["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("seconds", [1.0])
def test_a_process_whose_lease_was_taken_ends(tmp_path, seconds):
    """It looked dead to another host, which builds by now."""
    runs = Runs(tmp_path / "runs")
    plain = task_of(study(tmp_path, models=[given(tmp_path, gate=tmp_path)]), runs)
    task = Task(plain.cell, plain.root, plain.words, plain.code, lease=seconds)
    process = start(task)
    wait_for((tmp_path / "started").exists, process)
    for lease in runs.work(task.cell).glob("lease-*"):
        lease.write_text("given up")
    assert take(runs.work(task.cell)) is not None
    assert process.wait(60) == BUSY and not runs.is_done(task.cell)
