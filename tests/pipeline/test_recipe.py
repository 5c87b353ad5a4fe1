"""Recipes: the shipped files say what their names say, and every wrong key or value is one clear RecipeError."""

import re
import time
from typing import get_args

import pytest
import yaml

from pipeline.errors import RecipeError
from pipeline.grid import RANGE_PARAMETER
from pipeline.recipe import RECIPES, RangeName, Recipe, RuleChange, available_recipes, changed, load_recipe

MINIMAL = """\
name: own
weights:     {bits: 4, symmetric: true, granularity: per_channel, range: mse}
activations: {bits: 8, symmetric: false, granularity: per_tensor, range: minmax}
placement: paper
images: {source: files, count: 64, batch_size: 16}
method: {name: qdrop, steps: 100, keep_prob: 0.5}
seed: 3
"""


@pytest.fixture
def write(tmp_path):
    """Writes a recipe file, MINIMAL with one piece of text replaced, and returns its path."""

    def write_one(old="", new=""):
        assert old in MINIMAL
        path = tmp_path / "own.yaml"
        path.write_text(MINIMAL.replace(old, new) if old else MINIMAL)
        return path

    return write_one


# --- the shipped files ---


WIDTHS = {"w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2", "w4a2"}
SHIPPED = {
    **dict.fromkeys(("nearest", "adaround", "brecq", "qdrop", "pdquant", "lsq"), WIDTHS),
    **dict.fromkeys(("qdrop-mobilenetv2", "qdrop-mnasnet", "brecq-mobilenetv2", "pdquant-regnet",
                     "pdquant-mobilenetv2", "pdquant-mnasnet"), WIDTHS - {"w8a8"}),
    **dict.fromkeys(("captq", "captq-smooth", "captq-brecq"), WIDTHS - {"w8a8", "w4a8", "w4a2"}),
    "minmax": {"w8a8"}, "mse": {"w8a8"}, "zeroq": {"w8a8", "w4a8", "w8a4", "w4a4"},
    **{key: {"w8a8", "w4a4", "w3a3", "w2a2"} for key in ("zeroq-qdrop", "generated-qdrop")},
    **{key: {"w8a8", "w4a8", "w8a4", "w4a4"} for key in ("gdfq", "gdfq-imagenet")},
    **{key: {"w4a4", "w5a5"} for key in ("fdda", "fdda-f8l8", "fdda-small", "fdda-f8l8-small")},
    **{key: {"w4a4", "w2a2"} for key in ("dmbq", "dmbq-small")},
}
METHOD_OF = {"minmax": "nearest", "mse": "nearest", "captq": "qdrop", "captq-smooth": "qdrop", "captq-brecq": "brecq",
             "zeroq-qdrop": "qdrop", "generated-qdrop": "qdrop"}
STEPS = {"nearest": None, "zeroq": None, "adaround": 10000, "gdfq": 200, "fdda": 200, "dmbq": None}
EXTREMES = {"minmax", "zeroq", "gdfq", "gdfq-imagenet", "fdda", "fdda-f8l8", "fdda-small", "fdda-f8l8-small"}


def test_the_shipped_recipes_are_these():
    assert available_recipes() == sorted(f"{family}_{bits}" for family, widths in SHIPPED.items() for bits in widths)


@pytest.mark.parametrize("name", available_recipes())
def test_a_shipped_recipe_is_what_its_name_says(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    family, weights, activations = re.fullmatch(r"([a-z0-9-]+)_w(\d)a(\d)", name).groups()
    assert (recipe.weights.bits, recipe.activations.bits) == (int(weights), int(activations))
    assert recipe.method.name == METHOD_OF.get(family, family.split("-")[0])
    assert recipe.method.parameters.get("steps") == STEPS.get(recipe.method.name, 20000)
    assert recipe.weights.range == recipe.activations.range == ("minmax" if family in EXTREMES else "mse")


@pytest.mark.parametrize("name", available_recipes())
def test_a_shipped_recipe_has_at_most_25_lines_names_its_paper_and_lists_every_key(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    assert len(text.splitlines()) <= 25
    assert text.startswith("#") and re.search(r"arXiv \d{4}\.\d{5}|CVPR 2021", text)
    assert list(yaml.safe_load(text)) == list(type(load_recipe(name)).model_fields)


@pytest.mark.parametrize("name", available_recipes())
def test_no_shipped_recipe_asks_for_8_bit_asymmetric_weights(name):
    recipe = load_recipe(name)
    assert all(line.weights is None for line in recipe.overrides)
    assert recipe.weights.symmetric == (recipe.weights.bits == 8 or recipe.weights.levels == "multibit")


@pytest.mark.parametrize("name", available_recipes())
def test_a_shipped_recipe_has_its_paper_s_policy_below_w8a8(name):
    policies = {"captq": "captq", "captq-smooth": "captq", "captq-brecq": "brecq", "brecq": "brecq-intended",
                "brecq-mobilenetv2": "brecq-intended", **dict.fromkeys(EXTREMES, "none"),
                "fdda-f8l8": "captq", "fdda-f8l8-small": "captq"}
    family, bits = name.split("_")
    assert load_recipe(name).policy == ("none" if bits == "w8a8" else policies.get(family, "qdrop"))


# --- finding and reading ---


@pytest.mark.parametrize("spelling", ["qdrop_w4a8", "QDROP_W4A8", "qdrop_a8w4", "QDrop_A8w4"])
def test_a_name_takes_any_case_and_order_of_bits(spelling):
    assert load_recipe(spelling).name == "qdrop_w4a8"


def test_a_path_is_loaded(write):
    recipe = load_recipe(str(write()))
    assert recipe.name == "own"
    assert recipe.overrides == () and recipe.passes == ()
    assert recipe.method.parameters == {"steps": 100, "keep_prob": 0.5}


def test_an_unknown_name_lists_the_recipes_in_short_and_the_nearest():
    with pytest.raises(RecipeError) as caught:
        load_recipe("qdorp_w4a4")
    assert "{adaround,brecq,lsq,nearest,pdquant,qdrop}_w{2a2,2a4,3a3,4a2,4a4,4a8,8a8}, " in caught.value.allowed
    assert "{minmax,mse}_w8a8, " in caught.value.allowed
    assert ", or the path of a YAML file" in caught.value.allowed
    assert "qdrop_w4a4" in caught.value.hint


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["qdrop_w4a4", "qdrop_w2a2", "lsq_w4a4", "own"], "lsq_w4a4, qdrop_w{2a2,4a4}, own"),
        (["mine", "own"], "mine, own"),
        ([], "(no recipe in "),
    ],
)
def test_recipes_of_a_folder_are_listed_by_what_they_share(tmp_path, names, listed):
    for name in names:
        (tmp_path / f"{name}.yaml").touch()
    with pytest.raises(RecipeError) as caught:
        load_recipe("nothing", folder=tmp_path)
    assert caught.value.allowed.startswith(listed)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="nothing_here.yaml' does not exist"):
        load_recipe(str(tmp_path / "nothing_here.yaml"))
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"", "holds nothing"),
        (b"- a\n- b\n", "holds a list"),
        (b"seed: 1\nseed: 2\n", "the key 'seed' is given twice"),
        (b"seed: 2024-13-45\n", "cannot be read as YAML"),
        (b"seed:\t1\n\tname: a\n", "cannot be read as YAML"),
        (b"\0\1\2", "cannot be read as YAML"),
        (b"[" * 5000, "nested more than 16 deep"),
        (b"{a: " * 5000, "nested more than 16 deep"),
        (b"- " * 5000, "nested more than 16 deep"),
        (b"? " * 5000, "nested more than 16 deep"),
        (b"a: [1, 2, 3\n" * 5000, "cannot be read as YAML"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
        (b"a: &a [*a]\n", "aliases"),
        (b"seed: " + b"9" * 5000, "cannot be read as YAML"),
        (b"seed: " + b"9" * 4000, "'seed' is 9999"),
        (b"seed: -9223372036854775809", "'seed' is -9223372036854775809"),
        (b"images: {count: 0x" + b"f" * 999 + b"}", "'images.count' is"),
        (b"method: {learning_rate: .inf}", "'method.learning_rate' is inf"),
        (b"method: {learning_rate: .nan}", "'method.learning_rate' is nan"),
        (b"method: {learning_rate: 1e999}", "'method.learning_rate' is inf"),
        (b"a: !!int ''", "cannot be read as YAML"),
        (b"a: !!bool maybe", "cannot be read as YAML"),
        (b"a: !!timestamp never", "cannot be read as YAML"),
        (b"a: !!python/object/apply:os.system [true]", "cannot be read as YAML"),
        (b"[a, b]: c\n? [d]\n: e", "cannot be read as YAML"),
        (b"#" * (1 << 18), "longer than 131,072 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert caught.value.where == str(path) and len(str(caught.value)) < 3000
    assert time.perf_counter() - start < 5


def test_the_longest_recipe_that_is_read_takes_seconds(tmp_path):
    lines = "".join(f"- {{where: layer{index}.conv, weights: {{bits: 8}}}}\n" for index in range(2500))
    path = tmp_path / "long.yaml"
    path.write_text(load_recipe("minmax_w8a8").to_yaml().replace("overrides: []\n", f"overrides:\n{lines}"))
    start = time.perf_counter()
    assert len(load_recipe(path).overrides) == 2500 and time.perf_counter() - start < 10


def test_a_file_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RecipeError, match="longer than"):
        load_recipe(path)


def test_a_long_value_is_cut_in_the_message(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("bits: 4", f"bits: {'x' * 9000}"))
    assert len(caught.value.what) < 200


@pytest.mark.parametrize("key", ["1", "null", "true", "2024-01-01", "1.5", "''", "!!binary aGk="])
@pytest.mark.parametrize("inside", ["{}", "method: {{{}}}", "images: {{{}}}", "weights: {{{}}}"])
def test_keys_that_are_no_text_are_refused(tmp_path, key, inside):
    path = tmp_path / "bad.yaml"
    path.write_text(inside.format(f"{key}: 1"))
    with pytest.raises(RecipeError):
        load_recipe(path)


# --- values ---


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


def test_a_name_that_tells_other_bits_is_refused(write):
    with pytest.raises(RecipeError, match="'own_w2a8' does not say the recipe's bits .w4a8"):
        load_recipe(write("name: own", "name: own_w2a8"))


# --- a budget of bits ---


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


def test_a_shipped_name_is_found_with_a_budget_in_it_and_in_either_order(tmp_path):
    (tmp_path / "own_wmp3a4.yaml").write_text(load_recipe("qdrop_w4a4", ["weights.bits={average: 3}"]).to_yaml())
    for spelling in ("own_wmp3a4", "own_a4wmp3", "OWN_A4Wmp3"):
        assert load_recipe(spelling, folder=tmp_path).name == "qdrop_wmp3a4"
    with pytest.raises(RecipeError) as caught:
        load_recipe("own_wmp4a4", folder=tmp_path)
    assert "own_wmp3a4" in caught.value.allowed


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
    assert "--set weights" in caught.value.where or "--set activations" in caught.value.where
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


# --- range searches ---


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
    assert "--set" in caught.value.where


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


# --- --set ---


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
    assert "--set" in caught.value.where


@pytest.mark.parametrize(("count", "allowed"), [(0, "none: the list is empty"), (2, "0 to 1")])
def test_set_out_of_range_in_a_list_says_the_range(write, count, allowed):
    overrides = ", ".join(["{where: first, weights: {bits: 8}}"] * count)
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("seed: 3", f"seed: 3\noverrides: [{overrides}]"), ["overrides.2.weights.bits=3"])
    assert caught.value.allowed == allowed


# --- the canonical text ---


@pytest.mark.parametrize("name", available_recipes())
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
