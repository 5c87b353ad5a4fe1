"""Recipes as values: range searches, levels, the canonical text and its hash."""

import re
from typing import get_args

import pytest
import yaml

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.quant.grid import RANGE_PARAMETER
from isobit.pipeline.recipe.family import family_names
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import RangeName, Recipe, RuleChange, changed

SEARCHES = {"minmax": "", "average": "", "percentile": "percentile: 0.999", "mse": "exponent: 2.0",
            "mse_shrink": "exponent: 2"}


def test_the_range_searches_are_those_of_the_grid():
    assert set(get_args(RangeName)) == set(RANGE_PARAMETER) == set(SEARCHES)


@pytest.mark.parametrize(("search", "parameter"), SEARCHES.items())
def test_a_range_search_with_its_parameter_survives_the_canonical_text(write, tmp_path, search, parameter):
    recipe = load_recipe(write("range: mse", f"range: {search}" + (f", {parameter}" if parameter else "")))
    stated = {key: value for key in ("exponent", "percentile") if (value := getattr(recipe.weights, key)) is not None}
    assert recipe.weights.range == search and stated == (yaml.safe_load(f"{{{parameter}}}") or {})
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert load_recipe(copy) == recipe
    assert (recipe.sha256 != load_recipe(write("range: mse", f"range: {search}")).sha256) == bool(parameter)


@pytest.mark.parametrize(
    ("sets", "key", "takers", "beside"),
    [
        (["weights.percentile=0.9"], "percentile", "percentile", "mse"),
        (["activations.exponent=2.0"], "exponent", "mse or mse_shrink", "minmax"),
        (["activations.range=average", "activations.percentile=0.9"], "percentile", "percentile", "average"),
        (["weights.exponent=2.0", "weights.range=percentile"], "exponent", "mse or mse_shrink", "percentile"),
        (["overrides=[{where: first, weights: {range: minmax, exponent: 2.0}}]"], "exponent", "mse or mse_shrink",
         "minmax"),
    ],
)
def test_a_parameter_that_the_search_does_not_read_is_refused(write, sets, key, takers, beside):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(), sets)
    assert caught.value.what == f"'{key}' belongs to range: {takers}, and beside it stands range: {beside}"
    assert "`overrides=" in caught.value.where


def test_the_same_in_a_file_names_the_rule(write):
    with pytest.raises(RecipeError, match="'percentile' belongs to range: percentile") as caught:
        load_recipe(write("range: minmax", "range: minmax, percentile: 0.9"))
    assert "activations" in caught.value.hint


def test_an_override_states_the_search_beside_its_parameter(write):
    # mse is the rule's search, but other overrides may have changed it: one line has to say what it means.
    lone = "overrides: [{where: first, weights: {exponent: 2.0}}]"
    with pytest.raises(RecipeError, match="no range in the same override"):
        load_recipe(write("seed: 3", f"seed: 3\n{lone}"))
    load_recipe(write("seed: 3", "seed: 3\n" + lone.replace("{exponent", "{range: mse, exponent")))


@pytest.mark.parametrize("text", ["exponent=0.5", "exponent=4.1", "exponent=.nan", "exponent='2'", "exponent=true"])
def test_an_exponent_outside_1_to_4_is_refused(text):
    with pytest.raises(RecipeError, match="'weights.exponent' is"):
        load_recipe("qdrop_w4a4", [f"weights.{text}"])


@pytest.mark.parametrize("share", ["0", "-0.5", "1.01", "99.99", ".nan"])
def test_a_percentile_is_a_share(share):
    with pytest.raises(RecipeError, match="'weights.percentile' is"):
        load_recipe("qdrop_w4a4", ["weights.range=percentile", f"weights.percentile={share}"])


def test_an_override_replaces_a_search_with_its_parameter():
    rule = load_recipe("qdrop_w4a4", ["weights.exponent=2.0"]).weights
    for change in (RuleChange(range="percentile", percentile=0.9), RuleChange(range="minmax"), RuleChange(range="mse")):
        after = changed(rule, change)
        assert (after.range, after.exponent, after.percentile) == (change.range, None, change.percentile)
    assert changed(rule, RuleChange(bits=8)).exponent == 2.0


@pytest.mark.parametrize("name", [f"{family}_{bits}" for family in family_names() for bits in ("w4a4", "w2a3")])
def test_the_canonical_text_loads_to_the_same_recipe(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_the_hash_follows_content_not_form(write):
    plain = load_recipe(write())
    commented = load_recipe(write("method: {name: qdrop, steps: 100,", "# why\nmethod: {steps: 100, name: qdrop,"))
    other = load_recipe(write(), ["method.steps=101"])
    assert plain.sha256 == commented.sha256 != other.sha256
    assert re.fullmatch("[0-9a-f]{64}", plain.sha256)


def test_the_keys_of_a_source_are_carried_and_written_flat(write, tmp_path):
    recipe = load_recipe(write("batch_size: 16", "batch_size: 16, zeta: 2, statistic: null"), ["images.augment=train"])
    assert recipe.images.augment == "train" and recipe.images.parameters == {"zeta": 2, "statistic": None}
    assert load_recipe(write()).images.augment == "eval"
    keys = ["source", "count", "batch_size", "augment", "statistic", "zeta"]
    assert list(yaml.safe_load(recipe.to_yaml())["images"]) == keys
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "copy.yaml") == recipe
    assert load_recipe(write()).sha256 != load_recipe(write(), ["images.zeta=1"]).sha256


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("qdrop_w4a4").seed = 1


def test_changed_replaces_only_what_is_stated():
    rule = load_recipe("qdrop_w4a4").weights
    assert changed(rule, None) is rule
    assert changed(rule, RuleChange(bits=8)).model_dump() == {**rule.model_dump(), "bits": 8}
    assert changed(rule, RuleChange(symmetric=True)).model_dump() == {**rule.model_dump(), "symmetric": True}


LEVELS = ("weights={bits: 2, symmetric: true, granularity: per_channel, range: mse, levels: multibit}",
          "activations.levels=nested", "activations.bits=2", "name=x")


def test_levels_are_read_and_stay_in_the_text_only_where_they_are_not_uniform():
    plain, chosen = load_recipe("qdrop_w4a4"), load_recipe("qdrop_w4a4", LEVELS)
    assert (chosen.weights.levels, chosen.activations.levels) == ("multibit", "nested")
    assert "levels" not in plain.to_yaml() and chosen.to_yaml().count("levels") == 2
    assert Recipe.model_validate(yaml.safe_load(chosen.to_yaml())) == chosen


@pytest.mark.parametrize(
    ("edit", "words"),
    [("weights.bits=5", "at most 4 bits"), ("activations.bits=8", "at most 4 bits"),
     ("weights.symmetric=false", "symmetric: true"), ("weights.granularity=per_tensor", "per_channel"),
     ("weights.levels=nested", "levels"), ("activations.levels=multibit", "levels")],
)
def test_levels_that_do_not_exist(edit, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("qdrop_w4a4", [*LEVELS, edit])


def test_a_change_to_more_than_4_bits_is_uniform():
    recipe = load_recipe("qdrop_w4a4", LEVELS)
    assert changed(recipe.weights, RuleChange(bits=8)).levels == "uniform"
    assert changed(recipe.weights, RuleChange(bits=3)).levels == "multibit"
    assert changed(recipe.activations, RuleChange(bits=8)).levels == "uniform"
    assert changed(recipe.activations, RuleChange(range="minmax")).levels == "nested"


def test_a_number_of_thousands_of_digits_is_refused_like_any_other(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("seed: 99999" + ":59" * 20000)  # base 60
    with pytest.raises(RecipeError, match="thousands of digits"):
        load_recipe(path)


def test_a_finish_stands_in_the_text_only_where_there_is_one(tmp_path):
    plain = load_recipe("nearest_w4a4")
    assert "finish" not in plain.to_yaml() and load_recipe("nearest_w4a4", ["finish.rate=0.5"]).sha256 == plain.sha256
    asked = load_recipe("nearest_w4a4", ["finish={steps: 7, what: [scales], augment: [mix, flip]}"])
    path = tmp_path / "finished.yaml"
    path.write_text(asked.to_yaml())
    assert load_recipe(path) == asked and asked.finish.augment == ("mix", "flip")


@pytest.mark.parametrize(("edit", "key"), [
    ("finish.step=5", "step"), ("finish.what=[codes]", "what"), ("finish.what=[]", "what"),
    ("finish.augment=[crop]", "augment"), ("finish.steps=-1", "steps"), ("finish.loss=kl", "loss"),
    ("finish.rate=.inf", "finish"), ("finish.rate=0.0", "rate"), ("finish.rounding_rate=0.02", "leaves .rounding. out"),
])
def test_a_finish_that_cannot_be(edit, key):
    with pytest.raises(RecipeError, match=key):
        load_recipe("nearest_w4a4", [edit])
