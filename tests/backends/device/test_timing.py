"""Interleaved timing: order, ratios inside a round, and a slow phase that hits everybody."""

import ast
import os
import time
from pathlib import Path

import pytest

from isobit.backends.device import timing
from isobit.backends.device.timing import (
    WARM_UP,
    Contender,
    aligned,
    cells,
    clock_of,
    columns,
    conditions,
    interleave,
    quartiles,
    repeated,
    summarize,
)


def test_every_second_round_runs_in_reversed_order():
    order, now = [], [0.0]

    def runner(name, cost):
        def run():
            order.append(name)
            now[0] += cost
        return run

    times = interleave({"a": runner("a", 1.0), "b": runner("b", 2.0)}, 2, 4.0, clock=lambda: now[0])
    probes = ["a"] * (WARM_UP + 1) + ["b"] * (WARM_UP + 1)
    a, b = ["a"] * (WARM_UP + 4), ["b"] * (WARM_UP + 2)
    assert order == probes + a + b + b + a
    assert times == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    order.clear()
    interleave({"a": runner("a", 1.0), "b": runner("b", 9.0)}, 1, 4.0, clock=lambda: now[0])
    assert order == probes + a + ["b"], "what fills its block alone is not warmed up"
    order.clear()
    assert interleave({"a": runner("a", 1.0)}, 3, 1.0, clock=lambda: now[0]) == {"a": [1.0, 1.0, 1.0]}
    assert len(order) == WARM_UP + 1 + 3, "nobody else is there to leave anything in the caches"


def test_ratios_are_taken_inside_a_round():
    summary = summarize({"float": [2.0, 20.0, 2.0], "ours": [1.0, 10.0, 1.0]})
    assert summary["ours"]["speed_over"]["float"] == [2.0, 2.0, 2.0]
    assert summary["float"]["speed_over"]["ours"] == [0.5, 0.5, 0.5]
    assert summary["ours"]["ms"][1] == 1000.0


def test_quartiles_of_one_and_of_many():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


def test_one_thread_is_measured_in_cpu_time_and_several_in_the_time_that_passes(monkeypatch):
    assert clock_of(1) is time.process_time and clock_of(2) is time.perf_counter
    rounds = "medians and quartiles of the 5 rounds of one run"
    assert f"1 thread, batch 4; {rounds}, CPU time" in conditions(1, 4, 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 7}, raising=False)
    assert f"2 threads, batch 1; {rounds}, time that passed" in conditions(2, 1, 5)
    assert "; 3 threads on 2 cores, batch 1; " in conditions(3, 1, 5)


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_is_so_many_runs(count):
    calls = []
    repeated(lambda: calls.append(1), count)()
    assert len(calls) == count


def test_a_line_of_the_table_holds_medians_with_quartiles():
    own, base = [0.001, 0.002, 0.003], [0.002, 0.002, 0.002]
    line = cells("ours", Contender("runtime 1.0", lambda: None, "a note"), own, base)
    assert line == ("ours", "runtime 1.0", "2", "1.5 to 2.5", "1.000", "0.750 to 1.250", "a note")
    assert len(columns("float")) == len(line) and columns("float")[4] == "time over float"
    assert aligned([("a", "bb", ""), ("ccc", "d", "e")]) == ["a    bb", "ccc  d   e"]


def test_the_syntax_is_that_of_python_3_8():
    ast.parse(Path(timing.__file__).read_text(), feature_version=(3, 8))
