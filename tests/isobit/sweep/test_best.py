"""The best recipe of every model and target."""

from __future__ import annotations

import yaml

from isobit.sweep.best import answers, best_yaml, nearest_to_mean
from isobit.sweep.results import FAILED
from isobit.sweep.rules import Rule
from tests.examples.sweeps import row, seeds

RULE = Rule(accuracy=">= float - 1.5", minimize="size")


def test_the_smallest_whose_mean_keeps_the_bound():
    rows = [*seeds([90.9, 90.7], size=2000, recipe="w8"), *seeds([89.0, 90.2], size=1000, recipe="w4"),
            *seeds([70.0, 70.0], size=500, recipe="w2"), *seeds([90.0, 89.6], size=900, recipe="w3")]
    (found,) = answers([RULE], rows)
    assert found["recipe"] == "w3" and found["accuracy"] == 89.8 and found["tried"] == 4
    (found,) = answers([Rule(maximize="accuracy")], rows)
    assert found["recipe"] == "w8"


def test_of_an_error_the_least_is_the_best():
    rows = [row(5.0, recipe="w8", higher_is_better=False), row(40.0, recipe="w2", higher_is_better=False)]
    for rule in (Rule(maximize="accuracy"), Rule(minimize="size")):  # of the same size the better one
        assert answers([rule], rows)[0]["recipe"] == "w8"


def test_each_model_and_target_has_its_own_answer():
    rows = [row(90.0), row(60.0, target="c"), row(60.0, model="other", of_float=60.2)]
    assert [(one["model"], one["target"], one["recipe"]) for one in answers([RULE], rows)] == [
        ("net", "onnx", "minmax_w8a8"), ("net", "c", None), ("other", "onnx", "minmax_w8a8")]


def test_recipes_with_a_missing_seed_are_not_chosen():
    rows = [row(90.9, seed=1), row(None, seed=2, status=FAILED), *seeds([90.8, 90.6], size=5000, recipe="w8")]
    (found,) = answers([RULE], rows)
    assert found["recipe"] == "w8" and found["unfinished"] == 1
    (found,) = answers([RULE], rows[:2])
    assert found["recipe"] is None and found["why"] == "nothing was measured"


def test_the_artifact_is_of_the_seed_nearest_to_the_mean():
    rows = seeds([80.0, 90.4, 91.0])
    assert nearest_to_mean(rows).seed == 2


def test_the_file_is_plain_yaml():
    assert yaml.safe_load(best_yaml([RULE], [row(90.0)]))[0]["artifact"] == "cells/1000"
    assert yaml.safe_load(best_yaml([], [row(90.0)])) == []
