"""docs/results.json: what is said of a line, what stands beside it, and which groups a part of the records writes."""

from tests.tools.small_grid import record
from tools.bench.rows import DS_CNN, RESNET
from tools.reproduce import content as reproduce_content
from tools.reproduce.content import METHOD_TITLES, content, environment, group_content
from tools.reproduce.plan import BUDGETS, METHODS, Group, Line

QDROP = Line(RESNET, "qdrop_w2a2", ("method.steps=5",), authors=70.0, note="a remark")
WIDE = Line(DS_CNN, "qdrop_w4a4", seeds=(1,))


def recorded(line, *top1, cpu_s=10.0):
    return {cell: record(cell, value, cpu_s) for cell, value in zip(line.cells, top1, strict=False)}


def test_everything_about_a_line_is_kept():
    found = group_content(Group("one", (QDROP,)), recorded(QDROP, 70.0, 71.0, 72.0))
    assert found["lines"] == [{
        "network": "resnet20", "recipe": "qdrop_w2a2", "bits": "W2A2", "edits": ["method.steps=5"], "images": "calib",
        "note": "a remark", "seeds": 3, "measured": 3, "top1": 71.0, "deviation": 1.0, "lowest": 70.0, "highest": 72.0,
        "below_float": 19.0, "undecided_percent": 2.0, "kept_nearest": 0, "units": 6, "cpu_s": 10,
        "paper": {"top1": 51.14, "source": "QDrop"}, "authors_code": 70.0,
    }]
    assert found["networks"]["resnet20"] == {
        "title": "ResNet-20", "float": 90.0, "papers_network": "ResNet-18", "papers_float": 71.08
    }
    assert found["command"] == "python tools/reproduce/reproduce.py --groups one" and found["cells"] == 3
    assert found["proof"] == {"artifacts": 3, "compared": 3000, "differing": 0}
    assert found["measured_on"] == ["A Processor, 2 cores, torch 2.15.0, code cccccccccccc"]
    assert found["sources"]["QDrop"].startswith("QDrop, ICLR 2022")


def test_another_line_stands_beside_with_its_mean_and_its_time():
    mse = Line(RESNET, "mse_w8a8", beside=QDROP, time_beside=QDROP)
    group = Group("one", (mse,))
    records = recorded(QDROP, 70.0, 71.0, 72.0) | recorded(mse, 80.0, 80.0, 80.0, cpu_s=25.0)
    (line,) = group_content(group, records)["lines"]
    assert line["beside"] == {"line": "QDrop", "top1": 71.0} and line["time_beside"] == {"line": "QDrop", "times": 2.5}
    (alone,) = group_content(group, recorded(mse, 80.0, 80.0, 80.0))["lines"]
    assert alone["beside"]["top1"] is None and alone["time_beside"]["times"] is None


def test_failures_are_told_and_the_same_one_once():
    records = {cell: record(cell, 0, error="recipe: no\n  such thing") for cell in QDROP.cells}
    found = group_content(Group("one", (QDROP,)), records)
    assert found["lines"][0]["state"] == "failed" and "top1" not in found["lines"][0]
    assert found["failures"] == [{"cells": 3, "first": QDROP.cells[0].id, "error": "recipe: no such thing"}]
    assert group_content(Group("one", (QDROP,)), {})["lines"][0]["state"] == "not measured"


def test_the_last_epoch_and_the_time_of_images_are_kept():
    line = Line(RESNET, "gdfq_w4a4", seeds=(1, 2), images=None)
    records = recorded(line, 70.0, 71.0)
    epoch = {"number": 9, "steps": 5, "measured": {"obeyed": 0.98765, "statistics": 1.5}, "seconds": 2.0}
    records[line.cells[0]]["last_epoch"] = {"network": epoch}
    records[line.cells[1]]["phases"]["make images"] = {"cpu_s": 30.0, "wall_s": 30.0}
    (found,) = group_content(Group("one", (line,)), records)["lines"]
    assert found["last_epoch"] == {"network": {"epoch": 9, "obeyed": 0.988, "statistics": 1.5}}
    assert found["images_cpu_s"] == 30 and found["cpu_s"] == 25 and found["images"] == "none"


def test_the_order_is_ranked_where_all_of_it_was_measured(monkeypatch):
    monkeypatch.setattr(reproduce_content, "RANKING", ("mse", "qdrop"))
    monkeypatch.setattr(reproduce_content, "RANKED_AT", ((RESNET, "w2a2"),))
    worse = Line(RESNET, "mse_w2a2")  # no such recipe is shipped: its records are those of another
    records = recorded(QDROP, 70.0, 71.0, 72.0)
    records |= {cell: records[other] for cell, other in zip(worse.cells, QDROP.cells, strict=True)}
    group = Group("order", (worse, QDROP), view="order")
    assert group_content(group, records)["ranking"] == [
        {"network": RESNET, "bits": "W2A2", "worse": "mse", "better": "qdrop", "gain": 0.0, "noise": 1.63,
         "word": "within noise"}
    ]
    assert group_content(group, {})["ranking"] == []


def test_machines_and_states_of_the_code_are_told_apart():
    records = recorded(QDROP, 70.0, 71.0) | recorded(WIDE, 80.0)
    records[WIDE.cells[0]] = {**records[WIDE.cells[0]], "code": "d" * 64}
    place = {"cpu": "A Processor", "cores": 2, "versions": "torch 2.15.0"}
    assert environment(records) == [{"cells": 2, **place, "code": "c" * 12}, {"cells": 1, **place, "code": "d" * 12}]


def test_a_part_of_the_records_writes_its_groups_and_keeps_the_others():
    groups = (Group("one", (WIDE,)), Group("two", (QDROP,)), Group("best", view="best"))
    kept = {"environment": [{"cells": 7}], "groups": {"one": {"lines": ["as it was"]}}}
    found = content(groups, recorded(QDROP, 70.0, 71.0, 72.0), ["two"], kept)
    assert found["environment"] == [{"cells": 7}] and found["groups"]["one"] == {"lines": ["as it was"]}
    assert found["groups"]["two"]["lines"][0]["top1"] == 71.0 and set(found["groups"]) == {"one", "two"}


def test_every_method_of_the_plan_has_a_name():
    assert {*METHODS, *(family for _, family in BUDGETS)} <= set(METHOD_TITLES)
