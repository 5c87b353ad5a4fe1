"""docs/results.json: what is said of a line, what stands beside it, and which lines stay as they were."""

from __future__ import annotations

from tests.tools.small_grid import row, rows
from tools.bench.rows import DS_CNN, RESNET
from tools.reproduce import content as reproduce_content
from tools.reproduce.content import METHOD_TITLES, content, differing, places
from tools.reproduce.plan import BUDGETS, METHODS, Group, Line

QDROP = Line(RESNET, "qdrop_w2a2", ("method.steps=5",), authors=70.0, note="a remark")
WIDE = Line(DS_CNN, "qdrop_w4a4", seeds=(1,))


def one(records, *lines, kept=None, view="lines"):
    """The group of some lines."""
    return content((Group("one", lines, view=view),), records, kept or {})["groups"].get("one", {"lines": []})


def test_everything_about_a_line_is_kept():
    found = one(rows(QDROP, 70.0, 71.0, 72.0), QDROP)
    assert found["lines"] == [{
        "network": "resnet20", "recipe": "qdrop_w2a2", "bits": "W2A2", "edits": ["method.steps=5"], "images": "calib",
        "note": "a remark", "seeds": 3, "measured": 3, "top1": 71.0, "deviation": 1.0, "lowest": 70.0, "highest": 72.0,
        "below_float": 19.0, "undecided_percent": 2.0, "kept_nearest": 0, "units": 6, "cpu_s": 10.0, "compared": 3000,
        "differing": 0, "measured_on": ["A Processor, 2 cores, torch 2.15.0, code cccccccccccc"],
        "paper": {"top1": 51.14, "source": "QDrop"}, "authors_code": 70.0,
    }]
    assert found["networks"]["resnet20"] == {
        "title": "ResNet-20", "float": 90.0, "papers_network": "ResNet-18", "papers_float": 71.08
    }
    assert found["command"] == "python tools/reproduce/reproduce.py --groups one" and found["cells"] == 3
    assert found["sources"]["QDrop"].startswith("QDrop, ICLR 2022")


def test_another_line_stands_beside_with_its_mean_and_its_time():
    mse = Line(RESNET, "mse_w8a8", beside=QDROP, time_beside=QDROP)
    records = rows(QDROP, 70.0, 71.0, 72.0) | rows(mse, 80.0, 80.0, 80.0, cpu_s=25.0)
    line, _ = one(records, mse, QDROP)["lines"]
    assert line["beside"] == {"line": "QDrop", "top1": 71.0} and line["time_beside"] == {"line": "QDrop", "times": 2.5}
    alone, _ = one(rows(mse, 80.0, 80.0, 80.0), mse, QDROP)["lines"]
    assert alone["beside"]["top1"] is None and alone["time_beside"]["times"] is None
    elsewhere = rows(mse, 80.0, 80.0, 80.0, machine="Another, 2 cores")
    assert one(rows(QDROP, 70.0, 71.0, 72.0) | elsewhere, mse, QDROP)["lines"][0]["time_beside"]["times"] is None


def test_failures_are_told():
    (line,) = one({cell: row(cell, None, error="recipe: no\n  such thing") for cell in QDROP.cells}, QDROP)["lines"]
    assert line["state"] == "failed" and "top1" not in line
    assert line["failed"] == {"cells": 3, "first": QDROP.cells[0].id, "error": "recipe: no such thing"}
    (line,) = one(rows(WIDE, 1.0), QDROP, WIDE)["lines"][:1]
    assert line["state"] == "not measured"


def test_a_line_that_was_measured_again_with_every_seed_takes_the_place_of_the_old_one():
    kept = {"groups": {"one": one(rows(QDROP, 70.0, 71.0, 72.0) | rows(WIDE, 80.0), QDROP, WIDE)}}
    again = one(rows(QDROP, 50.0, 51.0, 52.0, code="d" * 12), QDROP, WIDE, kept=kept)
    assert [line["top1"] for line in again["lines"]] == [51.0, 80.0]
    assert [place[-12:] for place in places(again)] == ["c" * 12, "d" * 12]
    part = one(rows(QDROP, 50.0, 51.0), QDROP, WIDE, kept=kept)
    assert part == kept["groups"]["one"]
    broken = one({QDROP.cells[0]: row(QDROP.cells[0], None, error="why")}, QDROP, WIDE, kept=kept)
    assert broken["lines"][0]["top1"] == 71.0 and broken["lines"][0]["failed"]["error"] == "why"
    other = Line(RESNET, "qdrop_w2a2", ("method.steps=6",))
    assert [line.get("top1") for line in one({}, other, WIDE, kept=kept)["lines"]] == [None, 80.0]


def test_what_older_lines_say_together_stays_as_long_as_one_of_them():
    old = [{name: value for name, value in line.items() if name not in ("measured_on", "compared", "differing")}
           for line in one(rows(QDROP, 70.0, 71.0, 72.0) | rows(WIDE, 80.0), QDROP, WIDE)["lines"]]
    kept = {"groups": {"one": {"lines": old, "networks": {"resnet20": {"float": 88.0}},
                               "before": {"measured_on": ["A, code a"], "compared": 7, "differing": 2}}}}
    mixed = one(rows(WIDE, 81.0), QDROP, WIDE, kept=kept)
    assert mixed["before"]["compared"] == 7 and differing(mixed) == 2 and len(places(mixed)) == 2
    assert mixed["networks"]["resnet20"]["float"] == 88.0 and mixed["networks"]["ds_cnn"]["float"] == 90.0
    whole = one(rows(WIDE, 81.0) | rows(QDROP, 70.0, 71.0, 72.0), QDROP, WIDE, kept=kept)
    assert "before" not in whole and differing(whole) == 0 and len(places(whole)) == 1


def test_the_order_is_ranked_where_all_of_it_was_measured(monkeypatch):
    monkeypatch.setattr(reproduce_content, "RANKING", ("mse", "qdrop"))
    monkeypatch.setattr(reproduce_content, "RANKED_AT", ((RESNET, "w2a2"),))
    worse = Line(RESNET, "mse_w2a2")
    values = (70.0, 71.0, 72.0)
    measured = one(rows(worse, *values) | rows(QDROP, *values), worse, QDROP, view="order")
    step = {"network": RESNET, "bits": "W2A2", "worse": "mse", "better": "qdrop", "gain": 0.0, "noise": 1.63,
            "word": "within noise"}
    assert measured["ranking"] == [step]
    assert one(rows(worse, *values), worse, QDROP, view="order")["ranking"] == []
    older = {"groups": {"one": {
        "lines": [{key: value for key, value in line.items() if key != "measured_on"} for line in measured["lines"]],
        "ranking": [{**step, "noise": 1.64}]}}}  # of numbers that were not rounded
    assert one({}, worse, QDROP, view="order", kept=older)["ranking"][0]["noise"] == 1.64
    assert one(rows(QDROP, *values), worse, QDROP, view="order", kept=older)["ranking"] == [step]


def test_a_group_of_which_nothing_is_known_is_left_out():
    assert content((Group("one", (QDROP,)), Group("best", view="best")), {}, {})["groups"] == {}


def test_every_method_of_the_plan_has_a_name():
    assert {*METHODS, *(family for _, family in BUDGETS)} <= set(METHOD_TITLES)
