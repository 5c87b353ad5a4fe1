"""The tables of docs/results.md: what is in a row, what is said where nothing was measured, and the real page."""

from pathlib import Path

import bench_docs
import pytest
import reproduce
import reproduce_docs
from bench_rows import DS_CNN, RESNET
from reproduce_plan import BUDGETS, METHODS, PLAN, Group, Line, Required

from pipeline.errors import InputError
from tests.tools.small_grid import record

PAGE = Path(__file__).parents[2] / "docs" / reproduce.DOCUMENT
QDROP = Line(RESNET, "qdrop_w2a2", ("method.steps=5",), required=Required(least=70.0), note="a remark")
WIDE = Line(DS_CNN, "qdrop_w4a4", seeds=(1,))


def recorded(line, *top1):
    return {cell: record(cell, value) for cell, value in zip(line.cells, top1, strict=False)}


def test_a_row_says_everything_about_a_line():
    group = Group("one", (QDROP,))
    text = reproduce_docs.tables((group,), recorded(QDROP, 70.0, 71.0, 72.0), "now")["one"]
    row = next(text_line for text_line in text.splitlines() if text_line.startswith("| QDrop"))
    assert row == ("| QDrop | W2A2 | `method.steps=5` | 71.00 ± 1.00 | 70.00 – 72.00 | 3 of 3 | 19.00 | 2.00 % | "
                   "0 of 6 | 10 | 51.14 (QDrop) | >= 70.0; a remark | met |")
    assert "ResNet-20, float 90.00 %; the papers' figures are of ResNet-18, float 71.08 %" in text
    assert "0 of 3,000 codes and logits of 3 artifacts differ" in text
    assert "`python tools/reproduce.py --groups one` (3 cells)" in text and "*QDrop*: QDrop, ICLR 2022" in text


def test_failures_are_shown_and_the_same_one_once():
    records = {cell: record(cell, 0, error="recipe: no\n  such thing") for cell in QDROP.cells}
    text = reproduce_docs.tables((Group("one", (QDROP,)),), records, "now")["one"]
    assert "| failed |" in text and f"- 3 failed (`{QDROP.cells[0].id}`): recipe: no such thing" in text


def test_the_environment_tells_the_code_of_now_from_earlier_states():
    records = recorded(QDROP, 70.0, 71.0) | recorded(WIDE, 80.0)
    records[WIDE.cells[0]] = {**records[WIDE.cells[0]], "code": "d" * 64}
    text = reproduce_docs.environment(records, "c" * 64)
    assert "| 2 | A Processor | 2 | torch 2.15.0 | cccccccccccc (as it is now) |" in text
    assert "| 1 | A Processor | 2 | torch 2.15.0 | dddddddddddd |" in text
    assert reproduce_docs.environment({}, "now") == "Not measured yet."


def test_the_best_view_names_winner_runner_up_and_limit():
    better = Line(DS_CNN, "qdrop_w4a4", ("method.steps=9",), seeds=(1,))
    groups = (Group("one", (WIDE, better)), Group("best", view="best"))
    text = reproduce_docs.tables(groups, recorded(WIDE, 88.0) | recorded(better, 89.0), "now")["best"]
    row = next(line for line in text.splitlines() if line.startswith("| DS-CNN | W4A4"))
    assert "`method.steps=9` | 89.00 ± 0.00 | 1.00" in row
    assert "| qdrop_w4a4 88.00 | <= 1.5 points below float | met |" in row
    assert "| ResNet-20 | W2A2 | not measured |" in text


def test_the_order_view_ranks_the_methods(monkeypatch):
    monkeypatch.setattr(reproduce_docs, "RANKING", ("mse", "qdrop"))
    monkeypatch.setattr(reproduce_docs, "RANKED_AT", ((RESNET, "w2a2"),))
    worse = Line(RESNET, "mse_w2a2")  # no such recipe is shipped: its records are those of another
    records = recorded(QDROP, 70.0, 71.0, 72.0)
    records |= {cell: records[other] for cell, other in zip(worse.cells, QDROP.cells, strict=True)}
    group = Group("order", (worse, QDROP), view="order")
    text = reproduce_docs.tables((group,), records, "now")["order"]
    assert "| ResNet-20 W2A2 | mse <= qdrop | +0.00 ± 1.63 | within noise |" in text
    assert "not measured" in reproduce_docs.tables((group,), {}, "now")["order"]


def test_every_method_of_the_plan_has_a_name():
    assert {*METHODS, *(family for _, family in BUDGETS)} <= set(reproduce_docs.METHOD_TITLES)


def test_a_group_shows_where_its_cells_ran_and_what_the_last_epoch_measured():
    line = Line(RESNET, "gdfq_w4a4", seeds=(1, 2), images=None)
    records = recorded(line, 70.0, 71.0)
    epoch = {"number": 9, "steps": 5, "measured": {"obeyed": 0.987, "statistics": 1.5}, "seconds": 2.0}
    records[line.cells[0]]["last_epoch"] = {"network": epoch}
    text = reproduce_docs.tables((Group("one", (line,)),), records, "now")["one"]
    assert "- GDFQ W4A4, no data; network, epoch 9: obeyed 0.987, statistics 1.5" in text
    assert "Measured on: A Processor, 2 cores, torch 2.15.0, code cccccccccccc." in text
    assert "90.25 (CIFAR-10, second-hand)" in text


def test_a_part_of_the_tables_is_without_the_environment_of_all():
    groups = (Group("one", (WIDE,)), Group("two", (QDROP,)))
    assert set(reproduce_docs.tables(groups, {}, "now", ["two"])) == {"two"}
    assert set(reproduce_docs.tables(groups, {}, "now")) == {"environment", "one", "two"}


def test_the_page_has_a_place_for_every_group_and_keeps_its_words():
    text = PAGE.read_text(encoding="utf-8")
    filled = bench_docs.fill(text, reproduce_docs.tables(PLAN, {}, "now"), reproduce.MARK, reproduce.DOCUMENT)
    again = bench_docs.fill(filled, reproduce_docs.tables(PLAN, {}, "now"), reproduce.MARK, reproduce.DOCUMENT)
    assert again == filled and filled.splitlines()[0] == text.splitlines()[0]
    assert reproduce.PLOT in text


def test_a_group_without_a_place_on_the_page_is_an_error():
    tables = reproduce_docs.tables((*PLAN, Group("another")), {}, "now")
    with pytest.raises(InputError, match=r"(?s)another.*results.md"):
        bench_docs.fill(PAGE.read_text(encoding="utf-8"), tables, reproduce.MARK, reproduce.DOCUMENT)
