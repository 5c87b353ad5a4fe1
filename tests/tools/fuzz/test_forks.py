"""Work in a fork: its end, its time, its memory and what it prints are seen, and the parent stays as it was."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tools.fuzz.forks import CRASHED, forked

MEGABYTE, GIGABYTE = 1 << 20, 1 << 30


def run(tmp_path, work, seconds=20.0):
    return forked(work, tmp_path, tmp_path / "screen", seconds, 64 * GIGABYTE)


def test_what_it_says_and_where_it_stands(tmp_path):
    before = os.getcwd()

    def work():
        print("said", os.getcwd())
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
        return 5

    ended = run(tmp_path, work)
    assert (ended.code, ended.late) == (5, False) and os.getcwd() == before
    said = (tmp_path / "screen").read_text()
    assert f"said {tmp_path}" in said and "by a child" in said


def crashes():
    raise KeyError("gone")


@pytest.mark.parametrize(("work", "code"), [
    (crashes, CRASHED), (lambda: os.kill(os.getpid(), signal.SIGUSR1), -signal.SIGUSR1)])
def test_work_that_does_not_end_well(tmp_path, work, code):
    ended = run(tmp_path, work)
    assert ended.code == code and not ended.late
    assert ("KeyError" in (tmp_path / "screen").read_text()) == (code == CRASHED)


def test_work_without_end_is_killed_with_what_it_started(tmp_path):
    def work():
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
        time.sleep(60)

    ended = run(tmp_path, work, seconds=1.0)
    assert ended.late and ended.code == -signal.SIGKILL
    child = int((tmp_path / "screen").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until whoever inherits it has noticed
            os.kill(child, 0)
            time.sleep(0.05)


def test_memory_that_the_parent_holds_is_not_counted(tmp_path):
    held = bytes(256 * MEGABYTE)
    idle, busy = (run(tmp_path, lambda count=count: len(bytearray(count)) and 0).grown for count in (1, 96 * MEGABYTE))
    assert len(held) > idle + 128 * MEGABYTE and 96 * MEGABYTE <= busy - idle + 8 * MEGABYTE < 128 * MEGABYTE


def test_memory_has_an_end(tmp_path):
    ended = forked(lambda: len(bytearray(64 * GIGABYTE)) and 0, tmp_path, tmp_path / "screen", 20.0, 8 * GIGABYTE)
    assert ended.code == CRASHED and "MemoryError" in (tmp_path / "screen").read_text()
