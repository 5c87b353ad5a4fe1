"""The tables of docs/results.md: what is in a row, what is said where nothing was measured, and the real page."""

from pathlib import Path

import pytest

from isobit.pipeline.errors import InputError
from tests.tools.small_grid import row
from tests.tools.small_grid import rows as recorded
from tools.bench.rows import DS_CNN, RESNET
from tools.documents import fill, read_json
from tools.reproduce import docs as reproduce_docs
from tools.reproduce import reproduce
from tools.reproduce.content import content
from tools.reproduce.plan import PLAN, Group, Line

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / reproduce.DOCUMENT).read_text(encoding="utf-8")
QDROP = Line(RESNET, "qdrop_w2a2", ("method.steps=5",), authors=70.0, note="a remark")
ZEROQ = Line(RESNET, "zeroq_w4a4", seeds=(1,), images=None, beside=QDROP)
WIDE = Line(DS_CNN, "qdrop_w4a4", seeds=(1,))


def shown(groups, records):
    return reproduce_docs.tables(groups, content(groups, records, {}))


def test_a_row_says_what_a_user_asks_and_columns_without_content_are_left_out():
    text = shown((Group("one", (QDROP, ZEROQ, WIDE)),), recorded(QDROP, 70, 71, 72) | recorded(ZEROQ, 60))["one"]
    assert "**ResNet-20** (float 90.00 %)" in text
    assert "|QDrop|W2A2|a remark|71.00 ±1.00|10|authors' code 70.0|" in text
    assert "|ZeroQ|W4A4||60.00|10|QDrop 71.00|" in text
    columns = "|method|bits|top-1, %|CPU s|"
    assert f"**DS-CNN**\n\n{columns}\n|---|---|---|---|\n|QDrop|W4A4|not measured" in text
    assert "differ." not in text


def test_what_all_rows_share_stands_in_the_title():
    other = Line(RESNET, "qdrop_w2a2", ("method.steps=9",), seeds=(1,), note="nine")
    text = shown((Group("one", (QDROP, other)),), recorded(other, 70.0))["one"]
    assert text.startswith("**ResNet-20, QDrop, W2A2** (float 90.00 %)") and "|nine|70.00|10||" in text


def test_failures_and_differing_codes_are_shown():
    records = {cell: row(cell, None, error="recipe: no\n  such thing") for cell in QDROP.cells}
    text = shown((Group("one", (QDROP,)),), records)["one"]
    assert "|failed|" in text and f"- 3 failed (`{QDROP.cells[0].id}`): recipe: no such thing" in text
    found = shown((Group("one", (WIDE,)),), recorded(WIDE, 80.0, differing=4))
    assert "4 codes differ." in found["one"] and "all groups: 4." in found["environment"]


def test_where_it_was_measured_is_shown():
    assert "| one | A Processor, 2 cores, torch 2.15.0 | cccccccccccc |" in shown(
        (Group("one", (QDROP,)),), recorded(QDROP, 70.0, 71.0, 72.0))["environment"]
    assert shown((Group("one", (QDROP,)),), {})["environment"] == "Not measured yet."
    lines = [recorded(QDROP, 70, 71, 72), recorded(WIDE, 80.0, code="d" * 12)]
    assert "| one | A Processor, 2 cores, torch 2.15.0 | cccccccccccc, dddddddddddd |" in shown(
        (Group("one", (QDROP, WIDE)),), lines[0] | lines[1])["environment"]


def test_the_best_view_names_winner_and_next():
    better = Line(DS_CNN, "qdrop_w4a4", ("method.steps=9",), seeds=(1,))
    again = Line(WIDE.subject, WIDE.recipe, WIDE.sets, (1,), note="the same cells in another group")
    unfinished = Line(DS_CNN, "qdrop_w4a4", ("method.steps=99",), seeds=(1, 2))
    groups = (Group("one", (WIDE, better)), Group("two", (again, unfinished)), Group("best", view="best"))
    text = shown(groups, recorded(WIDE, 88.0) | recorded(better, 89.0) | recorded(unfinished, 99.0))["best"]
    assert "| DS-CNN | W4A4 | `qdrop_w4a4` | `method.steps=9` | 89.00 | qdrop_w4a4 88.00 |" in text
    assert "| ResNet-20 | W2A2 | not measured |" in text


def test_the_order_view_has_methods_by_bits_and_their_ranking():
    group = Group("order", (QDROP, WIDE), view="order")
    found = content((group,), recorded(QDROP, 70.0, 71.0, 72.0), {})
    text = reproduce_docs.tables((group,), found)["order"]
    assert "| QDrop | – | – | – | 71.00 | 10 |" in text and "| QDrop | not measured | – | – | – | – |" in text
    assert "The ranking is not measured yet." in text
    found["groups"]["order"]["ranking"] = [{"network": RESNET, "bits": "W2A2", "worse": "brecq", "better": "qdrop",
                                            "gain": 1.0, "noise": 0.5, "word": "better"}]
    assert "| ResNet-20 W2A2 | QDrop over BRECQ | +1.00 ± 0.50 |" in reproduce_docs.order_view(
        found["groups"]["order"])


def test_the_pairs_view_has_a_row_for_each_comparison():
    records = recorded(QDROP, 70, 71, 72) | recorded(ZEROQ, 60)
    text = shown((Group("one", (QDROP, ZEROQ), view="pairs"),), records)["one"]
    assert text.splitlines()[0] == "| network | method | bits | QDrop | top-1, % |"
    assert text.splitlines()[2:] == ["| ResNet-20 | ZeroQ | W4A4 | 71.00 | 60.00 |"]


def test_the_page_is_what_its_numbers_give():
    numbers = read_json(DOCS / reproduce.NUMBERS)
    assert set(numbers["groups"]) == {group.name for group in PLAN if group.lines}
    tables = reproduce_docs.tables(PLAN, numbers)
    assert fill(PAGE, tables, reproduce.MARK, reproduce.DOCUMENT) == PAGE
    assert reproduce.PLOT in PAGE


def test_the_numbers_are_of_the_plan():
    """Lines in the order of the plan, with its edits and seeds: nothing was lost or added on the way."""
    groups = read_json(DOCS / reproduce.NUMBERS)["groups"]
    for group in PLAN:
        if group.lines:
            found = [(line["network"], line["recipe"], tuple(line["edits"]), line["seeds"])
                     for line in groups[group.name]["lines"]]
            assert found == [(line.subject, line.recipe, line.sets, len(line.seeds)) for line in group.lines]


def test_a_page_without_numbers_says_so_and_keeps_its_words():
    filled = fill(PAGE, reproduce_docs.tables(PLAN, {}), reproduce.MARK, reproduce.DOCUMENT)
    assert "Not measured yet." in filled and filled.splitlines()[0] == PAGE.splitlines()[0]


def test_a_group_without_a_place_on_the_page_is_an_error():
    tables = reproduce_docs.tables((*PLAN, Group("another")), {})
    with pytest.raises(InputError, match=r"(?s)another.*results.md"):
        fill(PAGE, tables, reproduce.MARK, reproduce.DOCUMENT)
