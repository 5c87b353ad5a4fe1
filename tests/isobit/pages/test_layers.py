"""Rows of the table of layers: measurements find their steps, losses their units, ratios their grades."""

from __future__ import annotations

import pytest

from isobit.pages.layers import grade, layer_rows
from tests.examples.pages import made_artifact, node


@pytest.mark.parametrize(("ratio", "name"), [(None, ""), (-3, "bad"), (9.99, "bad"), (10, "poor"), (25, "fair"),
                                              (39.9, "good"), (40, "best"), (200, "best")])
def test_grades_begin_at_whole_tens(ratio, name):
    assert grade(ratio) == name


def test_a_row_has_its_weight_its_output_and_the_losses_of_its_unit(tmp_path):
    first, *_ = layer_rows(made_artifact(tmp_path / "net"))
    assert (first.weight.name, first.output.name, first.number) == ("step0_w", "step0", 1)
    assert (first.before, first.after, first.ratio, first.grade) == (2.0, 1.25, 15.0, "poor")


def test_of_several_passes_the_first_loss_and_the_last_count_and_nearest_where_it_was_kept(tmp_path):
    unit = {"name": "block", "nearest": 2.0, "hard": 1.5, "undecided": 0.0, "kept_nearest": False}
    second = {**unit, "nearest": 1.5, "hard": 0.5}
    (row,) = layer_rows(made_artifact(tmp_path / "a", nodes=[node("step0")], units=[unit, second]))
    assert (row.before, row.after) == (2.0, 0.5)
    (row,) = layer_rows(made_artifact(tmp_path / "b", nodes=[node("step0")], units=[{**unit, "kept_nearest": True}]))
    assert (row.before, row.after) == (2.0, 2.0)


def test_a_step_shows_the_losses_of_the_joined_unit_that_holds_its_own(tmp_path):
    joined = {"name": "stem + block", "nearest": 2.0, "hard": 0.5, "undecided": 0.0, "kept_nearest": False}
    (row,) = layer_rows(made_artifact(tmp_path / "a", nodes=[node("step0")], units=[joined]))
    assert (row.unit, row.before, row.after) == ("block", 2.0, 0.5)


def test_a_step_without_weights_shows_no_loss_and_its_own_name_where_no_module_ran_it(tmp_path):
    (row,) = layer_rows(made_artifact(tmp_path / "a", nodes=[node("step0", module="", weight_tensor=None)]))
    assert row.name == "step0" and row.weight is None and row.before is None
