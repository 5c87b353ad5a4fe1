"""A budget in the place of weight bits: read, named, edited, refused."""


import pytest

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.file import load_recipe


@pytest.mark.parametrize(("text", "name", "options"), [
    ("{average: 3}", "qdrop_wmp3a4", (2, 3, 4, 5, 6, 8)),
    ("{average: 2.5, options: [2, 4]}", "qdrop_wmp2.5a4", (2, 4)),
    ("{budget_mb: 0.12, options: [8, 2, 4]}", "qdrop_wmp0.12mba4", (2, 4, 8)),
    ("{budget_mb: 0.0000125}", "qdrop_wmp0.0000125mba4", (2, 3, 4, 5, 6, 8)),
])
def test_weights_take_a_budget_and_the_name_follows(tmp_path, text, name, options):
    recipe = load_recipe("qdrop_w4a4", [f"weights.bits={text}"])
    assert recipe.name == name and recipe.weights.bits.options == options
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "copy.yaml") == recipe


@pytest.mark.parametrize(("spelling", "same"), [
    ("qdrop_wmp3a4", "{average: 3}"), ("QDrop_a4Wmp2.5", "{average: 2.5}"), ("qdrop_a4wmp0.12mb", "{budget_mb: 0.12}"),
])
def test_a_budget_in_a_name_is_the_budget_that_set_would_give(spelling, same):
    assert load_recipe(spelling) == load_recipe("qdrop_w4a4", [f"weights.bits={same}"])


@pytest.mark.parametrize("bits", ["wmp9a4", "wmp0mba4", f"wmp{'9' * 5000}a4"])
def test_a_budget_in_a_name_has_the_limits_of_any_other(bits):
    with pytest.raises(RecipeError, match="weights.bits"):
        load_recipe(f"qdrop_{bits}")


def test_set_changes_one_key_of_a_budget_and_the_name_follows(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(load_recipe("qdrop_w4a4", ["weights.bits={average: 3}"]).to_yaml())
    assert load_recipe(path, ["weights.bits.average=2.5"]).name == "qdrop_wmp2.5a4"
    assert load_recipe(path, ["weights.bits=4"]).name == "qdrop_w4a4"
    assert load_recipe(path, ["weights.bits.options=[2, 8]"]).weights.bits.options == (2, 8)
    with pytest.raises(RecipeError, match="'other_wmp4a4' does not say the recipe's bits .wmp3a4"):
        load_recipe(path, ["name=other_wmp4a4"])


@pytest.mark.parametrize(("text", "message", "allowed"), [
    ("weights.bits={}", "exactly one of average and budget_mb", ""),
    ("weights.bits={average: 3, budget_mb: 1}", "exactly one of average and budget_mb", ""),
    ("weights.bits={avrage: 3}", "unknown key 'weights.bits.avrage'", "average, budget_mb, options"),
    ("weights.bits={average: 9}", "'weights.bits.average' is 9", "less than or equal to 8"),
    ("weights.bits={average: 5, options: [2, 4]}", "5 bits lies outside the options .2, 4.", ""),
    ("weights.bits={average: 3, options: [3]}", "'weights.bits.options' is", "at least 2 items"),
    ("weights.bits={average: 3, options: [2, 3, 3]}", "hold a number twice", ""),
    ("weights.bits={average: 3, options: [1, 8]}", "'weights.bits.options.0' is 1", "greater than or equal to 2"),
    ("weights.bits={budget_mb: 0}", "'weights.bits.budget_mb' is 0", "greater than 0"),
    ("weights.bits={budget_mb: big}", "'weights.bits.budget_mb' is 'big'", "valid number"),
    ("weights.bits.average=3", "'weights.bits' is a single value .4.", ""),
    ("activations.bits={average: 3}", "'activations.bits' is", "an integer from 2 to 8"),
])
def test_a_budget_that_cannot_be_meant_is_refused(text, message, allowed):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("qdrop_w4a4", [text])
    assert "`overrides=weights" in caught.value.where or "`overrides=activations" in caught.value.where
    assert allowed in caught.value.allowed


def test_bits_of_single_layers_stand_in_front_of_the_recipes_own_lines():
    recipe = load_recipe("qdrop_w4a4", ["weights.bits={average: 3}", "overrides=[{where: a, weights: {bits: 6}}]"])
    placed = recipe.with_bits({"a.b": 3, "a": 8, "last": 2, "op:x": 4, "x[1]": 5, "": 2})
    lines = [(line.where, line.weights.bits, line.weights.symmetric) for line in placed.overrides]
    assert lines == [("*", 2, None), ("a", 8, True), ("a.b", 3, None), ("[l]ast", 2, None), ("[o]p:x", 4, None),
                     ("x[[]1]", 5, None), ("a", 6, None)]
    assert placed.weights == recipe.weights and placed.name == "qdrop_wmp3a4"


def test_one_option_means_these_bits_with_symmetric_codes_at_8():
    recipe = load_recipe("qdrop_w4a4", ["weights.bits={average: 3}"])
    assert (recipe.at_bits(3).weights.bits, recipe.at_bits(3).weights.symmetric) == (3, False)
    assert recipe.weights.at_widest() == recipe.at_bits(8).weights and recipe.at_bits(8).weights.symmetric
    stated = load_recipe("qdrop_w8a8", ["weights.symmetric=false"]).weights
    assert stated.at_widest() is stated


def test_a_rule_states_a_number_or_a_budget():
    number = load_recipe("qdrop_w4a4").weights
    budget = load_recipe("qdrop_w4a4", ["weights.bits={average: 3}"]).weights
    assert number.fixed_bits == 4 and budget.budget is budget.bits
    with pytest.raises(ValueError, match="a budget .mp3. where a number is needed"):
        _ = budget.fixed_bits
    with pytest.raises(ValueError, match="4 where a budget is needed"):
        _ = number.budget


def test_a_budget_of_a_size_says_which():
    sized = load_recipe("qdrop_w4a4", ["weights.bits={budget_mb: 0.12}"]).weights.budget
    assert sized.megabytes == 0.12
    with pytest.raises(ValueError, match="mp3 states no size"):
        _ = load_recipe("qdrop_w4a4", ["weights.bits={average: 3}"]).weights.budget.megabytes
