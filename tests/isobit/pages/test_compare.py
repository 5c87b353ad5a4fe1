"""Artifacts side by side: what differs is marked, and the page keeps the rules of every page."""

from __future__ import annotations

import pytest

from isobit.pages.compare import (
    accuracies,
    compare_page,
    latency_bars,
    recipe_differences,
    side_by_side,
    titles,
    warnings,
)
from isobit.pages.layers import layer_rows
from isobit.pipeline.artifact.manifest import TIMINGS
from isobit.pipeline.artifact.timings import write_timings
from isobit.pipeline.errors import InputError
from tests.examples.pages import LATENCY, PageReader, made_artifact, node, write_artifact


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


def test_artifacts_that_were_judged_on_other_samples_are_told(tmp_path):
    judged = {"evaluation": {"samples": 16, "sha256": "f" * 64, "labelled": True}}
    one, two = made_artifact(tmp_path / "a"), made_artifact(tmp_path / "b", **judged)
    assert warnings([one, one], ["a", "b"]) == []
    (found,) = warnings([one, two, one], ["a", "b", "c"])
    assert "samples of a: b." in found
    assert "Not judged alike" in compare_page([tmp_path / "a", tmp_path / "b"])
    assert "Not judged alike" not in compare_page([tmp_path / "a", tmp_path / "a"])


def test_accuracies_are_bars_from_0_with_a_mark_at_float(tmp_path):
    one = made_artifact(tmp_path / "a")
    (first, _) = accuracies([one, one])
    assert first["value"] == "88.75 %" and first["change"] == "-1.25" and first["mark"] == 100
    assert first["width"] == pytest.approx(98.61, abs=0.01)
    rows = [{"stage": "float", "value": -1.0, "change": None, "cause": ""}]
    below = made_artifact(tmp_path / "b", steps={"title": "top-1", "unit": "%", "higher_is_better": True, "rows": rows})
    assert accuracies([one, below]) == [] and accuracies([below]) == []
    text = compare_page([tmp_path / "a", tmp_path / "a"])
    assert text.count('class="mark" d="M100') == 2


def test_recipes_are_told_by_what_differs():
    texts = ["name: a\nweights: {bits: 4, levels: uniform}\nseed: 1\n",
             "name: a\nweights: {bits: 8, levels: uniform}\n"]
    assert recipe_differences(texts) == [("weights.bits", ["4", "8"]), ("seed", ["1", None])]
    assert recipe_differences(texts[:1] * 2) == []
    assert recipe_differences([texts[0], "{"])[-1] == ("recipe", [None, "{"])


def test_latencies_are_those_that_builds_measured(tmp_path):
    assert latency_bars([None, None]) == []
    folders = [write_artifact(tmp_path / name) for name in "ab"]
    assert "not measured</b> by any" in compare_page(folders)
    write_timings(folders[1], {}, {}, [], {}, LATENCY)
    text = PageReader(compare_page(folders)).text
    assert "not measured by its build" in text and "0.5 ms, float 1 ms; time over float 0.50 (0.48 to 0.53)" in text


@pytest.mark.parametrize("content", ["[]", "{", '{"latency": {"ratio": "x"}}', "9" * 100, '{"latency": 3}'])
def test_times_that_nobody_can_read_are_refused(tmp_path, content):
    folders = [write_artifact(tmp_path / name) for name in "ab"]
    (folders[0] / TIMINGS).write_text(content)
    with pytest.raises(InputError, match="no times that can be read"):
        compare_page(folders)
