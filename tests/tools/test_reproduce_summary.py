"""Mean, spread, verdicts and ranking from recorded cells, with numbers that can be checked by hand."""

import json

import pytest
from bench_rows import DS_CNN, RESNET
from reproduce_cell import record_path
from reproduce_plan import Group, Line, Required
from reproduce_summary import best_lines, best_verdict, judge, ranking, read_records, summarize

from tests.tools.small_grid import record

QDROP = Line(RESNET, "qdrop_w2a2", ("method.steps=500",))
MSE = Line(RESNET, "mse_w8a8")


def recorded(line, *top1, cpu_s=10.0):
    return {cell: record(cell, value, cpu_s) for cell, value in zip(line.cells, top1, strict=False)}


def test_mean_and_deviation_over_seeds():
    summary = summarize(QDROP, recorded(QDROP, 70.0, 71.0, 72.0))
    assert summary.complete and summary.mean == 71.0 and summary.deviation == pytest.approx(1.0)
    assert summary.float_top1 == 90.0 and summary.undecided == pytest.approx(0.02) and summary.units == 6
    assert summary.seconds == 10.0 and summary.compared == 3000 and summary.differing == 0
    assert summarize(QDROP, recorded(QDROP, 70.0)).deviation == 0.0


def test_failed_cells_are_no_measurement():
    records = recorded(QDROP, 70.0, 71.0)
    records[QDROP.cells[2]] = record(QDROP.cells[2], 0, error="input: no such file")
    summary = summarize(QDROP, records)
    assert not summary.complete and summary.top1 == (70.0, 71.0) and summary.errors == ("input: no such file",)
    assert summarize(QDROP, {}).float_top1 is None


@pytest.mark.parametrize(("top1", "met"), [((70.0, 70.0, 70.4), True), ((70.0, 70.0, 70.2), False), ((80.0,), None)])
def test_least_is_judged_on_the_mean_of_all_seeds(top1, met):
    records = recorded(QDROP, *top1)
    (verdict,) = judge(Required(least=70.1), summarize(QDROP, records), records)
    assert verdict.met is met and verdict.limit == ">= 70.1"
    assert verdict.word == {True: "met", False: "missed", None: "–"}[met]


@pytest.mark.parametrize(("top1", "met"), [(88.6, True), (88.4, False)])
def test_points_below_float(top1, met):
    records = recorded(QDROP, top1, top1, top1)
    assert judge(Required(below_float=1.5), summarize(QDROP, records), records)[0].met is met


@pytest.mark.parametrize(("own", "above", "cheap"), [((71.0, 25.0), True, True), ((70.0, 31.0), False, False)])
def test_better_than_another_line_and_no_dearer(own, above, cheap):
    top1, cpu_s = own
    records = {**recorded(QDROP, 70.0, 70.0, 70.0), **recorded(MSE, top1, top1, top1, cpu_s=cpu_s)}
    required = Required(above=QDROP, cost=(QDROP, 3.0))
    better, cost = judge(required, summarize(MSE, records), records)
    assert (better.met, cost.met) == (above, cheap)
    assert better.limit == "> qdrop (70.00)" and cost.limit.startswith("<= 3x qdrop's time (is ")
    without = judge(required, summarize(MSE, records), {})
    assert [verdict.met for verdict in without] == [None, None]


def test_a_margin_a_distance_and_the_time_of_images():
    other, own = Line(RESNET, "qdrop_w4a4", seeds=(1,)), Line(RESNET, "zeroq_w4a4", seeds=(1,), images=None)
    records = {other.cells[0]: record(other.cells[0], 70.0), own.cells[0]: record(own.cells[0], 71.0)}
    records[own.cells[0]]["phases"]["make images"] = {"cpu_s": 30.0, "wall_s": 30.0}
    summary = summarize(own, records)
    assert (summary.seconds, summary.images_s) == (40.0, (30.0,))
    required = Required(above=other, margin=1.5, within=(other, 0.5), images_s=29.0)
    verdicts = judge(required, summary, records)
    assert [verdict.word for verdict in verdicts] == ["missed", "met", "missed"]
    assert [verdict.limit for verdict in verdicts] == [
        "> qdrop by 1.5 points (70.00)", "<= 0.5 points below qdrop (70.00)", "images in <= 29 s of one core (took 30)",
    ]
    (below,) = judge(Required(within=(own, 0.5)), summarize(other, records), records)
    assert below.word == "missed"


@pytest.mark.parametrize(
    ("better", "word"),
    [((71.0, 72.0, 73.0), "holds"), ((69.0, 70.0, 71.0), "within noise"), ((60.0, 61.0, 62.0), "fails")],
)
def test_ranking_tells_noise_from_failure(better, word):
    low, high = Line(RESNET, "mse_w8a8"), QDROP
    summaries = [summarize(low, recorded(low, 70.0, 71.0, 72.0)), summarize(high, recorded(high, *better))]
    (step,) = ranking(summaries)
    assert step.word == word and step.noise == pytest.approx(2 * (2 / 3) ** 0.5)
    assert (step.worse, step.better) == ("mse", "qdrop")


def test_there_is_no_ranking_of_what_is_not_measured():
    assert ranking([summarize(QDROP, recorded(QDROP, 70.0, 71.0, 72.0)), summarize(MSE, {})]) is None


def test_the_best_line_is_complete_and_stands_once():
    long = Line(RESNET, "qdrop_w2a2", ("method.steps=1000",))
    unfinished = Line(RESNET, "qdrop_w2a2", ("method.steps=2000",))
    again = Line(QDROP.subject, QDROP.recipe, QDROP.sets, note="the same cells in another group")
    groups = (Group("a", (QDROP, long)), Group("b", (again, unfinished)))
    records = recorded(QDROP, 70, 70, 70) | recorded(long, 72, 72, 72) | recorded(unfinished, 99)
    found = best_lines(groups, records)
    assert [summary.line.sets for summary in found[RESNET, "w2a2"]] == [long.sets, QDROP.sets]


def test_only_some_networks_have_a_limit_on_the_best():
    line = Line(DS_CNN, "qdrop_w4a4")
    assert best_verdict((DS_CNN, "w4a4"), summarize(line, recorded(line, 89.0, 89.0, 89.0))).met is True
    assert best_verdict((DS_CNN, "w4a4"), summarize(line, recorded(line, 88.0, 88.0, 88.0))).met is False
    assert best_verdict((RESNET, "w4a4"), summarize(QDROP, {})) is None


def test_records_of_a_changed_recipe_are_not_read_and_failures_are(tmp_path):
    first, second, third = QDROP.cells
    outdated = record(second, 71.0)
    outdated["recipe"]["sha256"] = "of another text"
    for cell, content in ((first, record(first, 70.0)), (second, outdated), (third, record(third, 0, error="why"))):
        record_path(tmp_path, cell).write_text(json.dumps(content))
    found = read_records(tmp_path, (Group("a", (QDROP,)),))
    assert set(found) == {first, third} and found[third]["error"] == "why"
