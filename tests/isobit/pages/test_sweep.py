"""The page of a sweep: fronts, deviations, and the rules of every page."""

from __future__ import annotations

from isobit.pages.environment import MOST_BYTES
from isobit.pages.sweep import model_view, pareto, plot, sweep_page
from isobit.sweep.results import FAILED, groups
from isobit.sweep.rules import Rule
from tests.examples.pages import PageReader
from tests.examples.sweeps import row, seeds

ROWS = [*seeds([90.0, 91.0], size=1000, recipe="w8"), *seeds([88.0, 86.0], size=500, recipe="w4"),
        *seeds([85.0, 85.2], size=800, recipe="w5")]


def test_the_page_is_well_formed_and_says_mean_deviation_and_best():
    text = sweep_page("study", [*ROWS, row(None, status=FAILED, recipe="broken", error="capture: <b>no</b>")],
                      [Rule(accuracy=">= float - 1", minimize="size")])
    read = PageReader(text)
    assert not read.faults and "http:" not in text and "<b>no" not in text
    assert "90.50 ± 0.71 %" in read.text and "87.00 ± 1.41 %" in read.text and "capture: <b>no</b>" in read.text
    assert "accuracy >= float - 1, minimize size" in read.text and "6 of 7" in read.text


def test_what_is_larger_and_worse_is_on_no_front():
    view = model_view("net", groups(ROWS), "net")
    assert [(line.group.recipe, line.front) for line in view.lines] == [("w4", True), ("w5", False), ("w8", True)]
    errors = [row(value, size=size, recipe=str(size), higher_is_better=False)
              for value, size in ((3.0, 500), (4.0, 800), (2.0, 900))]
    assert [group.recipe for group in pareto(groups(errors))] == ["500", "900"]


def test_a_chart_has_a_line_strokes_and_a_dot_for_every_group():
    found = plot(groups(ROWS), lambda group: group.bytes)
    assert len(found.series) == 2 and found.series[1].count("V") == 3
    assert len(found.dots) == 1 and [mark[3] for mark in found.marks] == ["w4, onnx", "w8, onnx"]
    assert all(0 <= place <= 100 for x, y, *_ in (*found.dots, *found.marks) for place in (x, y))
    assert len(found.x) > 1 and len(found.y) > 1


def test_latency_has_a_chart_of_its_own_where_it_is_known():
    timed = [row(90.0, latency=2.0, recipe="a"), row(80.0, latency=1.0, recipe="b")]
    assert [name for name, _ in model_view("net", groups(timed), "net").plots] == ["size", "latency"]


def test_pages_without_numbers_are_pages():
    for rows in ([], [row(None)], [row(90.0)], [row(None, status=FAILED)], [row(90.0), row(90.0, recipe="same")]):
        assert not PageReader(sweep_page("study", rows, [Rule(minimize="size")])).faults


def test_a_large_sweep_keeps_to_its_bytes_and_says_what_is_left_out():
    rows = [row(50.0 + place / 1000, size=10_000 - place, recipe=f"recipe{place}") for place in range(6000)]
    text = sweep_page("study", rows, [])
    assert len(text.encode()) <= MOST_BYTES and "left out" in text
