"""Artifacts side by side: what differs is marked, and the page keeps the rules of every page."""

from __future__ import annotations

import pytest

from isobit.pages.compare import compare_page, side_by_side, titles
from isobit.pages.layers import layer_rows
from isobit.pipeline.errors import InputError
from tests.examples.pages import PageReader, made_artifact, node, write_artifact


def other(**changes):
    return {"nodes": [node("step0"), node("step1", ["step0"], weight="8", module="second", **changes)]}


def test_the_page_is_well_formed_and_loads_nothing(tmp_path):
    text = compare_page([write_artifact(tmp_path / "a"), write_artifact(tmp_path / "b", **other())])
    assert not PageReader(text).faults and "<script>alert" not in text and "http:" not in text
    assert "88.75 %" in text and "1,000" in text and "a · b" in PageReader(text).text


def test_layers_are_matched_by_name_and_differences_are_marked(tmp_path):
    one = made_artifact(tmp_path / "a", nodes=[node("x", module="first"), node("y", module="second")])
    two = made_artifact(tmp_path / "b", nodes=[node("x", module="first"), node("z", module="second", weight="8"),
                                               node("u", module="third")])
    found = side_by_side([layer_rows(one), layer_rows(two)])
    assert [(name, [cell.bits for cell in cells], cells[1].differs) for name, cells in found] == [
        ("first", ["W4 A4", "W4 A4"], False), ("second", ["W4 A4", "W8 A4"], True), ("third", ["–", "W4 A4"], True)]


def test_folders_of_one_name_are_numbered(tmp_path):
    (tmp_path / "other").mkdir()
    made = [made_artifact(tmp_path / "a"), made_artifact(tmp_path / "other" / "a"), made_artifact(tmp_path / "b")]
    assert titles(made) == ["a (1)", "a (2)", "b"]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_and_too_many_are_refused(tmp_path, count):
    with pytest.raises(InputError, match="artifact") as found:
        compare_page([tmp_path] * count)
    assert found.value.field == "artifacts"
