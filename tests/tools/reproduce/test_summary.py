"""Mean, spread and ranking from rows of an index, with numbers that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tests.tools.small_grid import row, rows
from tools.bench.rows import RESNET
from tools.reproduce.plan import Group, Line
from tools.reproduce.summary import figures, ranking, read_records

QDROP = Line(RESNET, "qdrop_w2a2", ("method.steps=500",))


def test_mean_and_deviation_over_seeds():
    assert figures(QDROP, rows(QDROP, 70.0, 71.0, 72.0)) == {
        "measured": 3, "float": 90.0, "top1": 71.0, "deviation": 1.0, "lowest": 70.0, "highest": 72.0,
        "below_float": 19.0, "undecided_percent": 2.0, "kept_nearest": 0, "units": 6, "cpu_s": 10.0, "compared": 3000,
        "differing": 0, "measured_on": ["A Processor, 2 cores, torch 2.15.0, code cccccccccccc"],
    }
    assert figures(QDROP, rows(QDROP, 70.0))["deviation"] == 0.0
    assert figures(QDROP, {}) == {"measured": 0}


def test_failed_cells_are_no_measurement():
    found = figures(QDROP, rows(QDROP, 70.0, 71.0) | {QDROP.cells[2]: row(QDROP.cells[2], None, error="no\n  file")})
    assert found["measured"] == 2 and found["top1"] == 70.5
    assert found["failed"] == {"cells": 1, "first": QDROP.cells[2].id, "error": "no file"}


def test_the_time_in_which_images_are_made_is_a_part_of_calibration():
    own = Line(RESNET, "zeroq_w4a4", seeds=(1,), images=None)
    found = figures(own, rows(own, 71.0, cpu_seconds={"make images": 30.0, "calibrate": 10.0}))
    assert (found["cpu_s"], found["images_cpu_s"]) == (40.0, 30)


def test_a_build_that_went_on_says_nothing_of_its_time():
    records = rows(QDROP, 70.0, 71.0) | {QDROP.cells[2]: row(QDROP.cells[2], 72.0, cpu_seconds={})}
    assert figures(QDROP, records)["cpu_s"] == 10.0
    assert figures(QDROP, rows(QDROP, 70.0, cpu_seconds={}))["cpu_s"] is None


@pytest.mark.parametrize(
    ("better", "word"),
    [((73.0, 74.0, 75.0), "better"), ((71.0, 72.0, 73.0), "within noise"), ((69.0, 70.0, 71.0), "within noise"),
     ((60.0, 61.0, 62.0), "worse")],
)
def test_ranking_tells_noise_from_a_difference(better, word):
    about = {"network": RESNET, "bits": "W2A2", "seeds": 3}
    lines = [about | figures(QDROP, rows(QDROP, *values)) for values in ((70.0, 71.0, 72.0), better)]
    (step,) = ranking(lines, ("mse", "qdrop"))
    assert step["word"] == word and step["noise"] == round(2 * (2 / 3) ** 0.5, 2)
    assert (step["worse"], step["better"], step["gain"]) == ("mse", "qdrop", round(better[1] - 71.0, 2))
    assert ranking([lines[0], about | figures(QDROP, rows(QDROP, 70.0))], ("mse", "qdrop")) == []


def test_rows_are_found_by_what_a_study_calls_them(tmp_path):
    """The index has the name that a recipe has after its edits; a cell that is not done has nothing to say."""
    wide, pool = Line(RESNET, "qdrop_w4a4", ("activations.bits=8",), (1,)), Line(RESNET, "mse_w8a8", (), (1,), "pool")
    done = [row(wide.cells[0], 70.0), row(pool.cells[0], None, error="why"), row(QDROP.cells[0], 1.0)]
    said = [asdict(one) for one in done]
    said[0]["recipe"], said[2]["status"] = "qdrop_w4a8", "todo"
    path = tmp_path / "index.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in said))
    found = read_records(path, (Group("a", (wide, pool, QDROP)),))
    assert set(found) == {wide.cells[0], pool.cells[0]} and found[pool.cells[0]].error == "why"
    assert found[wide.cells[0]].edits == ("activations.bits=8",)
    assert read_records(tmp_path / "none.jsonl", (Group("a", (wide,)),)) == {}
