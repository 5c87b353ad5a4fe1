"""The probes count what they did, in the clock's seconds, and follow the number of threads."""

from __future__ import annotations

import pytest

from isobit.calib import machine
from isobit.calib.machine import Machine, measure_machine


def test_a_machine_twice_as_slow_has_half_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(tick: float) -> Machine:
        now = [0.0]

        def clock() -> float:
            now[0] += tick
            return now[0]

        return measure_machine(clock)

    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.01)
    fast, slow = measured(0.01), measured(0.02)
    assert slow.gmacs == pytest.approx(fast.gmacs / 2) and slow.gvalues == pytest.approx(fast.gvalues / 2)
    assert fast.gvalues == pytest.approx(2**20 / 0.01 / 1e9)
    assert fast.gmacs == pytest.approx(16 * 64 * 16 * 16 * 64 * 9 / 0.01 / 1e9)


def test_one_slow_call_changes_nothing() -> None:
    times = iter([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 102.0, 102.0, 200.0])
    assert machine._rate(lambda: 5, lambda: next(times)) == pytest.approx(5.0)


def test_this_machine_computes_something() -> None:
    found = measure_machine()
    assert 0.01 < found.gmacs < 1e5 and 1e-4 < found.gvalues < 1e3


def test_threads_scale_with_the_exponent() -> None:
    assert Machine(4.0, 2.0, 1).at(16, 0.75) == Machine(32.0, 16.0, 16)
