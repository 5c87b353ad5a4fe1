"""Every wrong key or value is one clear RecipeError: its path, what is allowed, the nearest spelling."""


import pytest

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.file import load_recipe


@pytest.mark.parametrize("bits", ["1", "9", "0", "-4", "4.0", "'4'", "true", "null"])
def test_bits_outside_2_to_8_are_refused_with_key_and_range(write, bits):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("bits: 4", f"bits: {bits}"))
    assert "weights.bits" in caught.value.what
    assert caught.value.allowed == "an integer from 2 to 8, or a budget as {average: 3} or {budget_mb: 0.12}"


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_from_2_to_8_are_taken(write, bits):
    assert load_recipe(write("bits: 4", f"bits: {bits}")).weights.bits == bits


@pytest.mark.parametrize(
    ("old", "new", "key", "hint"),
    [
        ("seed: 3", "seed: 3\nplacemnt: paper", "placemnt", "Did you mean 'placement'?"),
        ("range: mse", "range: mse, symetric: false", "weights.symetric", "Did you mean 'symmetric'?"),
        (
            "seed: 3",
            "seed: 3\noverrides: [{where: first, weights: {bit: 8}}]",
            "overrides.0.weights.bit",
            "Did you mean 'bits'?",
        ),
        (
            "seed: 3",
            "seed: 3\noverrides: [{where: first, weights: {bits: 8}, activation: {bits: 8}}]",
            "overrides.0.activation",
            "Did you mean 'activations'?",
        ),
    ],
)
def test_an_unknown_key_names_its_path_and_the_nearest_key(write, old, new, key, hint):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(old, new))
    assert caught.value.what == f"unknown key '{key}'"
    assert hint in caught.value.hint
    assert hint.split("'")[1] in caught.value.allowed


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ("placement: paper", "placement: papers", "placement", "target or paper"),
        ("seed: 3", "seed: 3\npolicy: captp", "policy", "none or qdrop or brecq or brecq-intended or captq"),
        ("range: mse", "range: max", "weights.range", "minmax or mse"),
        ("granularity: per_tensor", "granularity: per_channel", "activations.granularity", "per_tensor"),
        ("count: 64", "count: -1", "images.count", "greater than or equal to 0"),
        ("count: 64", "count: 64.5", "images.count", "valid integer"),
        ("count: 64", "count: 64, augment: training", "images.augment", "train or eval"),
        ("count: 64", "count: 64, 1: 2", "images.1", "valid string"),
        ("seed: 3", "seed: -1", "seed", "greater than or equal to 0"),
        ("symmetric: true", "symmetric: 1", "weights.symmetric", "valid boolean"),
        ("name: own", "name: ../own", "name", "match pattern"),
        ("method: {name: qdrop, steps: 100, keep_prob: 0.5}", "method: qdrop", "method", "valid dictionary"),
        ("name: qdrop, ", "1: qdrop, name: qdrop, ", "method.1", "valid string"),
        ("seed: 3", "seed: 3\npasses: equalize", "passes", "valid tuple"),
    ],
)
def test_a_value_that_is_not_allowed_names_its_key_and_what_is(write, old, new, key, allowed):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(old, new))
    assert caught.value.what.startswith(f"'{key}' is ")
    assert allowed in caught.value.allowed


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ("seed: 3\n", "seed"), ("bits: 4, ", "weights.bits"), ("name: qdrop, ", "method.name"), ("name: own\n", "name"),
        ("source: files, ", "images.source"),
    ],
)
def test_a_missing_key_is_named(write, old, key):
    with pytest.raises(RecipeError, match=f"the key '{key}' is missing"):
        load_recipe(write(old, ""))


def test_several_faults_are_all_named(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(), ["weights.bits=9", "activations.bits=1", "sead=3"])
    assert caught.value.what == "unknown key 'sead'"
    assert "weights.bits" in caught.value.hint and "activations.bits" in caught.value.hint


@pytest.mark.parametrize("override", ["{where: first}", "{where: 'op:', weights: {bits: 8}}"])
def test_an_override_that_does_nothing_is_refused(write, override):
    with pytest.raises(RecipeError, match="an override states|'op:' is followed"):
        load_recipe(write("seed: 3", f"seed: 3\noverrides: [{override}]"))


@pytest.mark.parametrize("where", ["[]", "['']", "3", "''", "[first, 3]", "{a: 1}"])
def test_an_override_that_selects_by_nothing_says_what_a_pattern_is(write, where):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("seed: 3", f"seed: 3\noverrides: [{{where: {where}, weights: {{bits: 8}}}}]"))
    assert caught.value.what.startswith("'overrides.0.where' is ") and caught.value.field == "recipe.overrides.0.where"
    assert caught.value.allowed.startswith("first, penultimate, last, op:<operator> or a pattern")
    assert not caught.value.hint


def test_a_name_that_tells_other_bits_is_refused(write):
    with pytest.raises(RecipeError, match="'own_w2a8' does not say the recipe's bits .w4a8"):
        load_recipe(write("name: own", "name: own_w2a8"))
