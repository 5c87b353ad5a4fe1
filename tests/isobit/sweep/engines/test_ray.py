"""A real cluster of this machine: tasks, workers and drivers that are killed, a second driver that joins."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec

import pytest

from isobit.pipeline.errors import InputError
from isobit.sweep.engines import ray
from isobit.sweep.folder import Runs
from isobit.sweep.lease import holder
from tests.examples.sweeps import given, study, wait_for
from tests.isobit import commands
from tools.sweep.check import worker_of

# The cluster of a test takes drivers that know its token, which is made here and nobody else's.
ENVIRONMENT = {**commands.ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
pytestmark = [
    pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="the engine 'ray' needs isobit[sweep]"),
]
# A cluster that stands while its standard input is open; prints its address, and the pid of a worker that asks.
CLUSTER = """
import sys, ray
context = ray.init(address="local", num_cpus=2, object_store_memory=80_000_000, include_dashboard=False,
                   log_to_driver=False, logging_level="ERROR", _memory=4_000_000_000)
print(context.address_info["address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def address():
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


def start(path, out, address):
    """A driver of the cluster at `address`, whose messages go to `<pid>.log` beside the study."""
    with (path.parent / "log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "isobit", "sweep", str(path), "--out", str(out), "--engine", "ray", "--address",
             address, "--jobs", "2"], env=ENVIRONMENT, stderr=log, stdout=log)
    (path.parent / "log").rename(path.parent / f"{driver.pid}.log")
    return driver


def test_a_killed_driver_and_a_killed_worker_lose_nothing_and_build_nothing_twice(tmp_path, address):
    path, out = study(tmp_path, models=[given(tmp_path, gate=tmp_path)]), tmp_path / "runs"
    started, runs = tmp_path / "started", Runs(tmp_path / "runs")
    driver = start(path, out, address)
    wait_for(started.exists, driver)
    (work,) = (out / "work").iterdir()
    driver.kill()
    driver.wait()
    other = start(path, out, address)
    try:
        log = tmp_path / f"{other.pid}.log"
        wait_for(lambda: "running" in log.read_text() or "elsewhere" in log.read_text(), other)
        build = holder(work)
        for pid in () if build is None else (worker_of(build[1]), build[1]):  # Ray may have ended it with its driver
            with suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert other.wait() == 0, log.read_text()
    finally:
        (tmp_path / "go").touch()
        other.kill()
    events = [line["event"] for line in runs.attempts(work.name)]
    assert events.count("built") == 1 and events[-1] == "built" and events.count("started") >= 2
    assert [found.name for found in (out / "cells").iterdir()] == [work.name]


# Ray warns from inside itself, which tests take for errors: the engine is looked at in a process of its own.
UNIT = """
import sys
from pathlib import Path
from isobit.sweep.engines import Settings, open_engine
from isobit.sweep.process import Task
from isobit.sweep.study import Resources
engine = open_engine("ray", Settings(Resources(memory=0.5), 3, None, "", {}))
print(engine.slots(), len(engine.ended(0.0)))
for name in ("a", "b", "c"):
    engine.start(Task(name, sys.argv[1], ("model",), "other code"))
found = {}
while len(found) < 3:
    found |= {ended.cell: ended.code for ended in engine.ended(1.0)}
print(sorted(found.items()))
engine.close()
"""


def test_tasks_come_back_with_the_exit_codes_of_their_processes(tmp_path):
    said = subprocess.run([sys.executable, "-c", UNIT, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == ["3 0", "[('a', 76), ('b', 76), ('c', 76)]"]
    assert "not what the sweep began with" in Runs(tmp_path).failure("b")["message"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:99999999"])
def test_a_cluster_that_does_not_answer_is_said(address):
    with pytest.raises(InputError, match="no Ray cluster answers") as found:
        ray._knock(address)
    assert found.value.field == "address" and "ray start" in found.value.hint
