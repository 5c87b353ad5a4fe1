"""Interleaved timing: order, ratios inside a round, and a slow phase that hits everybody."""

from tools.bench.timing import WARM_UP, interleave, quartiles, summarize


def test_every_second_round_runs_in_reversed_order():
    order, now = [], [0.0]

    def runner(name, cost):
        def run():
            order.append(name)
            now[0] += cost
        return run

    times = interleave({"a": runner("a", 1.0), "b": runner("b", 2.0)}, 2, 2.0, clock=lambda: now[0])
    probes = ["a"] * (WARM_UP + 1) + ["b"] * (WARM_UP + 1)
    a, b = ["a"] * (WARM_UP + 2), ["b"] * (WARM_UP + 1)
    assert order == probes + a + b + b + a
    assert times == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_ratios_are_taken_inside_a_round():
    summary = summarize({"float": [2.0, 20.0, 2.0], "ours": [1.0, 10.0, 1.0]})
    assert summary["ours"]["speed_over"]["float"] == [2.0, 2.0, 2.0]
    assert summary["float"]["speed_over"]["ours"] == [0.5, 0.5, 0.5]
    assert summary["ours"]["ms"][1] == 1000.0


def test_quartiles_of_one_and_of_many():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
