"""Mean, spread and ranking from recorded cells, with numbers that can be checked by hand."""

import json

import pytest

from tests.tools.small_grid import record
from tools.bench.rows import RESNET
from tools.reproduce.cell import record_path
from tools.reproduce.plan import Group, Line
from tools.reproduce.summary import ranking, read_records, summarize

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


def test_the_time_in_which_images_are_made_is_a_part_of_calibration():
    own = Line(RESNET, "zeroq_w4a4", seeds=(1,), images=None)
    records = {own.cells[0]: record(own.cells[0], 71.0)}
    records[own.cells[0]]["phases"]["make images"] = {"cpu_s": 30.0, "wall_s": 30.0}
    summary = summarize(own, records)
    assert (summary.seconds, summary.images_s) == (40.0, (30.0,))


@pytest.mark.parametrize(
    ("better", "word"),
    [((73.0, 74.0, 75.0), "better"), ((71.0, 72.0, 73.0), "within noise"), ((69.0, 70.0, 71.0), "within noise"),
     ((60.0, 61.0, 62.0), "worse")],
)
def test_ranking_tells_noise_from_a_difference(better, word):
    low, high = Line(RESNET, "mse_w8a8"), QDROP
    summaries = [summarize(low, recorded(low, 70.0, 71.0, 72.0)), summarize(high, recorded(high, *better))]
    (step,) = ranking(summaries)
    assert step.word == word and step.noise == pytest.approx(2 * (2 / 3) ** 0.5)
    assert (step.worse, step.better) == ("mse", "qdrop")


def test_there_is_no_ranking_of_what_is_not_measured():
    assert ranking([summarize(QDROP, recorded(QDROP, 70.0, 71.0, 72.0)), summarize(MSE, {})]) is None


def test_records_of_a_changed_recipe_are_not_read_and_failures_are(tmp_path):
    first, second, third = QDROP.cells
    outdated = record(second, 71.0)
    outdated["recipe"]["sha256"] = "of another text"
    for cell, content in ((first, record(first, 70.0)), (second, outdated), (third, record(third, 0, error="why"))):
        record_path(tmp_path, cell).write_text(json.dumps(content))
    found = read_records(tmp_path, (Group("a", (QDROP,)),))
    assert set(found) == {first, third} and found[third]["error"] == "why"
