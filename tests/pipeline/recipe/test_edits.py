"""`--set key=value`: changes what it names, and a wrong one says where."""


import pytest

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import RuleChange


def test_set_changes_the_named_fields_only(write):
    path = write("seed: 3", "seed: 3\npolicy: qdrop\noverrides: [{where: first, weights: {bits: 8}}]")
    before = load_recipe(path)
    after = load_recipe(
        path,
        [
            "method.steps=500",
            "method.rate=1e-3",
            "weights.symmetric=false",
            "policy=captq",
            "overrides.0.weights.bits=7",
            "passes=[equalize]",
        ],
    )
    assert after.method.parameters == {**before.method.parameters, "steps": 500, "rate": 0.001}
    assert not after.weights.symmetric and after.overrides[0].weights.bits == 7 and after.passes == ("equalize",)
    assert (before.policy, after.policy) == ("qdrop", "captq")
    restored = after.model_copy(
        update={
            "method": before.method,
            "weights": before.weights,
            "policy": before.policy,
            "overrides": before.overrides,
            "passes": before.passes,
        }
    )
    assert restored == before


def test_set_can_add_a_part_that_an_override_lacks(write):
    path = write("seed: 3", "seed: 3\noverrides: [{where: first, weights: {bits: 8}}]")
    recipe = load_recipe(path, ["overrides.0.activations.bits=6", "overrides.0.output={range: minmax}"])
    assert recipe.overrides[0].activations == RuleChange(bits=6)
    assert recipe.overrides[0].output == RuleChange(range="minmax")


def test_a_recipe_without_a_policy_has_none(write):
    assert load_recipe(write()).policy == "none"


def test_on_and_off_are_words_and_true_and_false_are_not(write):
    parameters = load_recipe(write("steps: 100", "fisher: off, flag: true"), ["method.other=on", "method.no=False"])
    assert parameters.method.parameters == {"fisher": "off", "flag": True, "other": "on", "no": False, "keep_prob": 0.5}


def test_the_name_follows_bits_that_are_set():
    assert load_recipe("qdrop_w4a4", ["weights.bits=3"]).name == "qdrop_w3a4"
    assert load_recipe("qdrop_w4a4", ["weights.bits=3", "name=mine"]).name == "mine"
    assert load_recipe("qdrop_w4a4", ["method.steps=3"]).name == "qdrop_w4a4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method.steps", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("weights..bits=3", "not of the form key=value"),
        ("seed=[1", "value cannot be read as YAML"),
        ("seed.first=1", "'seed' is a single value"),
        ("overrides.7.weights.bits=3", "names no entry of the list"),
        ("overrides.first.weights.bits=3", "names no entry of the list"),
        ("overrides.9={where: first}", "names no entry of the list"),
        ("wieghts.bits=3", "unknown key 'wieghts'"),
        ("weights.bit=3", "unknown key 'weights.bit'"),
        ("weights.bits=9", "'weights.bits' is 9"),
        ("weights=4", "'weights' is 4"),
        ("weights={}", "'weights.bits' is missing"),
        ("weights.bits=", "'weights.bits' is None"),
    ],
)
def test_a_wrong_set_is_refused_and_says_where(text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("qdrop_w4a4", [text])
    assert "`overrides=" in caught.value.where


def test_set_finds_lists_that_the_file_leaves_out(write):
    with pytest.raises(RecipeError, match="'overrides.0' names no entry of the list") as caught:
        load_recipe(write(), ["overrides.0.weights.bits=8"])
    assert caught.value.allowed == "none: the list is empty"


@pytest.mark.parametrize(("count", "allowed"), [(0, "none: the list is empty"), (2, "0 to 1")])
def test_set_out_of_range_in_a_list_says_the_range(write, count, allowed):
    overrides = ", ".join(["{where: first, weights: {bits: 8}}"] * count)
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("seed: 3", f"seed: 3\noverrides: [{overrides}]"), ["overrides.2.weights.bits=3"])
    assert caught.value.allowed == allowed
