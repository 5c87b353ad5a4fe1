"""What a process of its own gives, and that its end is its own."""

import os
import signal
import time

import pytest

from tools.mutants.apart import apart


def test_a_value_comes_back_and_nothing_else_changes():
    seen = []
    assert apart(lambda: seen.append(1) or [os.getpid(), "x" * 200_000]) != [os.getpid(), "x" * 200_000]
    assert seen == [] and apart(lambda: {"a": 1}) == {"a": 1}


def test_a_signal_or_no_end_is_none():
    assert apart(lambda: os.kill(os.getpid(), signal.SIGSEGV)) is None
    started = time.monotonic()
    assert apart(lambda: time.sleep(60), seconds=1) is None and time.monotonic() - started < 30


def test_an_exception_is_told():
    with pytest.raises(RuntimeError, match="ended with 1"):
        apart(lambda: 1 // 0)
