"""A worker answers, dies and is replaced."""

import os
import signal
import time

from tools.fuzz.workers import Worker


def work(task):
    """Module level: a spawned process finds it."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "leave":
        os._exit(7)
    if task == "wait":
        time.sleep(60)
    if task == "fill":
        return len(bytearray(1 << 40))
    print("nobody sees this")
    return task, os.getpid()


def test_a_worker_answers_dies_and_is_replaced(capfd):
    with Worker(work, 2) as worker:
        first = worker.ask(1)
        assert first.value[0] == 1 and not first.died and first.cpu_s is not None
        assert worker.ask(2).value == (2, first.value[1])
        assert worker.ask("die").died == "ended by SIGSEGV"
        assert worker.ask("leave").died == "exit 7"
        assert worker.ask("wait").died == "no answer in 2 s"
        again = worker.ask(3).value
        assert again[0] == 3 and again[1] != first.value[1]
    assert capfd.readouterr().out == ""
