"""Charts say what the numbers say: bars begin where the stage before ended, ticks are round, grids stand in place."""

from __future__ import annotations

import pytest

from isobit.pages import charts
from isobit.pipeline.facts.record import FrontierFacts, StepsFacts, TensorFacts
from tests.examples.pages import tensor


def steps(*values):
    return StepsFacts(title="top-1", unit="%", higher_is_better=True, rows=[
        {"stage": str(place), "value": value, "change": None, "cause": ""} for place, value in enumerate(values)])


def test_the_waterfall_s_bars_hang_together():
    bars = charts.waterfall(steps(90.0, 88.0, 88.5, 88.5))
    assert [bar.sign for bar in bars] == [0, -1, 1, 0]
    assert bars[0].left == 0 and bars[0].width == 100
    assert bars[1].left + bars[1].width == pytest.approx(100)
    assert bars[2].left == pytest.approx(bars[1].left) and bars[2].width == pytest.approx(bars[1].width / 4)
    assert bars[3].left == 0 and bars[3].width == pytest.approx(bars[2].left + bars[2].width)
    assert charts.waterfall_start(steps(90.0, 88.0)) == 82.0


@pytest.mark.parametrize("values", [(0.0, 0.0), (-3.0, -2.0), (5.0, 5.0), (1e-9, 2e-9), (100.0, 0.0), (0.2, -0.2)])
def test_any_numbers_give_bars_within_the_row(values):
    for bar in charts.waterfall(steps(*values)):
        assert bar.left >= 0 and bar.width > 0 and bar.left + bar.width <= 100.5


def test_stages_without_a_number_have_no_bar():
    assert charts.waterfall(steps(None, None)) == [] and charts.waterfall_start(steps(None)) == 0.0
    assert charts.waterfall(steps(1.0, None, 0.5))[1].width == 0


def test_ticks_are_round_and_within_the_axis():
    assert [tick.text for tick in charts.ticks(0, 60)] == ["0", "20", "40", "60"]
    assert [tick.text for tick in charts.ticks(1234, 5678)] == ["2,000", "3,000", "4,000", "5,000"]
    assert all(0 <= tick.place <= 100 for tick in charts.ticks(0.3, 7.7))


def test_a_histogram_stands_on_its_grid():
    view = charts.histogram(TensorFacts.model_validate(tensor("w", "weight")))
    assert view.path == "M0 100H25.00V52H50.00V4H75.00V80.8H100V100Z"
    assert view.every == 1 and view.lines.count("M") == 16
    assert view.left == pytest.approx(100 * 1 / 18, abs=0.01) and view.width == pytest.approx(100 * 16 / 18, abs=0.02)


def test_of_a_fine_grid_some_lines_are_drawn():
    fine = tensor("w", qmin=0, qmax=255, histogram={"low": -20.5, "high": 275.5, "heights": [1]})
    view = charts.histogram(TensorFacts.model_validate(fine))
    assert view.every == 8 and view.lines.count("M") == 32
    assert charts.histogram(TensorFacts.model_validate(tensor("w", histogram=None))) is None


def test_the_profile_leaves_out_what_is_not_known():
    plot = charts.profile([[10.0, None, 30.0], [20.0, 20.0, 20.0]], ["a", "b", "c"])
    assert plot.series == ("M0 66.67h0M100 0h0", "M0 33.33L50 33.33L100 33.33")
    assert [dot[2] for dot in plot.dots] == ["a: 10.0 dB", "c: 30.0 dB"]
    assert charts.profile([[1.0, 2.0, None, 4.0, 5.0], [1.0]], "abcde").series == (
        "M0 90L25 80M75 60L100 50", "M0 90h0")
    assert charts.profile([[None, None]], ["a", "b"]) is None and charts.profile([[1.0]], ["a"]) is None


def test_the_frontier_marks_what_was_chosen():
    plot = charts.frontier(FrontierFacts.model_validate({
        "budget": "b", "points": [{"bytes": 0, "omega": 1.0}, {"bytes": 100, "omega": 0.01}],
        "chosen": {"bytes": 50, "omega": 0.1}, "uniform": {2: {"bytes": 100, "omega": 1.0}}, "omegas": {}}))
    assert plot.series == ("M0 0L100 100",)
    assert plot.marks == ((100, 0, "uniform", "2 bits"), (50, 50, "chosen", "chosen"))
    assert [tick.text for tick in plot.y] == ["1e-02", "1e-01", "1e+00"]


@pytest.mark.parametrize(("low", "high", "texts"), [
    (0.21, 0.55, ["0.3", "0.4", "0.5"]), (5.0, 30.0, ["10", "20", "30"]), (1.0, 1.0, ["1e+00", "1e+01"]),
])
def test_sensitivities_within_a_decade_have_ticks_too(low, high, texts):
    plot = charts.frontier(FrontierFacts.model_validate({
        "budget": "b", "points": [{"bytes": 0, "omega": high}, {"bytes": 100, "omega": low}],
        "chosen": {"bytes": 0, "omega": high}, "uniform": {}, "omegas": {}}))
    assert [tick.text for tick in plot.y] == texts and all(-0.1 <= tick.place <= 100.1 for tick in plot.y)
