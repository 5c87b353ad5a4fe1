"""Short recipe files: they load as what they were made of, and are written in full where they would not."""

from __future__ import annotations

import shlex

import pytest
import yaml

from isobit.pipeline.recipe.extension import changed, set_text, short_text
from isobit.pipeline.recipe.file import load_recipe
from isobit.search import mixed_recipe

BITS = {"stem": 8, "a": 4, "b": 4, "c": 2}


def loaded(text, folder):
    (folder / "found.yaml").write_text(text)
    return load_recipe(folder / "found.yaml")


@pytest.mark.parametrize("edits", [(), ("method.steps=50", "images.count=64"), ("weights.range=minmax",)])
def test_a_shipped_recipe_is_extended_with_what_differs(tmp_path, edits):
    recipe = mixed_recipe(load_recipe("qdrop_w4a4", edits), BITS, "found")
    text = short_text(recipe, "qdrop_w4a4", edits)
    content = yaml.safe_load(text)
    assert content["extends"] == "qdrop_w4a4" and len(text.splitlines()) < 30 and "summary" not in content
    assert loaded(text, tmp_path) == recipe
    assert recipe.activations.bits == 8 and recipe.policy == "none"


def test_what_cannot_be_extended_is_written_whole(tmp_path):
    recipe = mixed_recipe(load_recipe("qdrop_w4a4"), BITS, "found")
    for extends in ("my/own.yaml", "nearest_w4a4", "no-such_w4a4"):
        text = short_text(recipe, extends)
        assert loaded(text, tmp_path) == recipe and "extends" not in yaml.safe_load(text)


def test_the_options_say_the_same_as_the_file():
    recipe = mixed_recipe(load_recipe("qdrop_w4a4"), BITS, "found")
    words = shlex.split(set_text(recipe))
    edits = [word for word in words if word != "--set"]
    assert load_recipe("qdrop_w4a4", [*edits, "name=found"]) == recipe


def test_what_was_changed_is_said():
    recipe = load_recipe("qdrop_w4a4", ["method.steps=300", "seed=1"])
    assert set(changed(recipe)) == {"method.steps=300", "seed=1"}
    assert changed(load_recipe("qdrop_w4a4")) == [] == changed(mixed_recipe(load_recipe("qdrop_w4a4"), BITS, "mine"))
