"""The recipes are what their description says, byte for byte; a file that is not is named."""

import re
from pathlib import Path

import make_recipes
import pytest
import yaml

from calib.methods import find_method
from pipeline.recipe import RECIPES, MethodChoice, available_recipes, load_recipe

ROOT = RECIPES.parent
MAIN = ("nearest", "adaround", "brecq", "qdrop", "pdquant", "lsq")


@pytest.fixture
def written(tmp_path):
    assert make_recipes.main(["--folder", str(tmp_path)]) == 0
    return tmp_path


def parameters(name):
    return load_recipe(name).method.parameters


def test_the_recipes_are_the_described_ones_and_no_others(capsys):
    files = {path.name: path.read_bytes() for path in RECIPES.iterdir()}
    assert files == {name: text.encode() for name, text in make_recipes.recipe_texts().items()}
    assert make_recipes.main(["--check"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "qdrop_w4a4.yaml").unlink(), "qdrop_w4a4.yaml: is missing"),
        (lambda folder: (folder / "own_w4a4.yaml").touch(), "own_w4a4.yaml: is not described"),
        (lambda folder: (folder / "mse_w8a8.yaml").write_text("name: x\n"), "mse_w8a8.yaml: differs"),
    ],
)
def test_drift_is_named_and_the_folder_left_alone(written, spoil, message, capsys):
    spoil(written)
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    assert make_recipes.main(["--check", "--folder", str(written)]) == 1
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_writing_restores_a_file_and_names_one_that_is_not_described(written, capsys):
    (written / "qdrop_w4a4.yaml").write_text("name: x\n")
    (written / "own.yaml").touch()
    assert make_recipes.main(["--folder", str(written)]) == 1
    assert capsys.readouterr().err.splitlines() == ["own.yaml: is not described in tools/make_recipes.py"]
    assert (written / "qdrop_w4a4.yaml").read_bytes() == (RECIPES / "qdrop_w4a4.yaml").read_bytes()


def test_every_method_has_every_width():
    assert {f"{method}_{bits}" for method in MAIN for bits in make_recipes.ALL} <= set(available_recipes())


def test_lines_fit_and_values_survive_both_versions_of_yaml():
    for name, text in make_recipes.recipe_texts().items():
        assert max(map(len, text.splitlines())) <= 120, name
        recipe, plain = load_recipe(RECIPES / name), yaml.safe_load(text)
        assert {"name": recipe.method.name, **recipe.method.parameters} == plain["method"]


def test_what_depends_on_the_network_is_the_papers_table():
    keys = ("rounding_weight", "temperature", "reconstruction_weight", "correction_tie")
    assert {name: tuple(parameters(f"{name}_w2a2")[key] for key in keys)
            for name in ("pdquant", "pdquant-regnet", "pdquant-mobilenetv2", "pdquant-mnasnet")} == {
        "pdquant": (0.01, 4.0, 0.1, 0.02), "pdquant-regnet": (0.01, 4.0, 0.1, 0.01),
        "pdquant-mobilenetv2": (0.1, 1.0, 0.1, 0.005), "pdquant-mnasnet": (0.2, 1.0, 0.1, 0.001),
    }  # fmt: skip
    assert [parameters(f"{name}_w2a2")["rounding_weight"] for name in (
        "qdrop", "qdrop-mobilenetv2", "qdrop-mnasnet", "brecq", "brecq-mobilenetv2")] == [0.01, 0.1, 0.2, 0.01, 0.1]


def test_a_variant_differs_from_its_method_in_those_parameters_only():
    for name in available_recipes():
        family, bits = name.split("_")
        method, _, network = family.partition("-")
        if not network or method in ("captq", "gdfq", "fdda", "dmbq") or network == "qdrop":
            continue
        own, base = load_recipe(name), load_recipe(f"{method}_{bits}")
        assert own.model_copy(update={"name": base.name, "method": base.method}) == base
        assert own.method.name == base.method.name and own.method.parameters.keys() == base.method.parameters.keys()


@pytest.mark.parametrize(
    ("family", "source", "method", "policy"),
    [("captq", "captq-random", "qdrop", "captq"), ("captq-smooth", "captq-smooth", "qdrop", "captq"),
     ("captq-brecq", "captq-random", "brecq", "brecq")],
)  # fmt: skip
def test_captq_is_a_selection_and_a_policy_on_another_method(family, source, method, policy):
    for bits in make_recipes.CAPTQ_ROWS:
        recipe, base = load_recipe(f"{family}_{bits}"), load_recipe(f"{method}_{bits}")
        assert recipe.images.source == source and recipe.policy == policy
        assert (recipe.method, recipe.weights, recipe.activations) == (base.method, base.weights, base.activations)


@pytest.mark.parametrize(("family", "source"), [("zeroq-qdrop", "distilled"), ("generated-qdrop", "generated")])
def test_data_free_qdrop_is_qdrop_on_images_that_are_made(family, source):
    for bits in make_recipes.DATA_FREE_ROWS:
        recipe, base = load_recipe(f"{family}_{bits}"), load_recipe(f"qdrop_{bits}")
        assert recipe.images.source == source
        assert recipe.model_copy(update={"name": base.name, "images": base.images}) == base


def test_zeroq_holds_the_average_at_8_bits_and_widens_ranges_where_there_are_bits_for_it():
    for bits in make_recipes.ZEROQ_ROWS:
        recipe = load_recipe(f"zeroq_{bits}")
        assert recipe.method.parameters["widen"] == (1.25 if bits == "w8a8" else 1.0)
        held = [(line.where, line.activations.bits) for line in recipe.overrides]
        assert held == ([] if recipe.activations.bits == 8 else [("last", 8)])
        assert (recipe.images.source, recipe.images.count) == ("distilled", 64)


def what_differs(first, second):
    """Keys in which two recipes differ; of method and images, which of their parameters."""
    one, two = load_recipe(first).model_dump(), load_recipe(second).model_dump()
    keys = {key for key in one if one[key] != two[key]} - {"name", "method", "images"}
    for part, inside in (("method", one["method"]["parameters"]), ("images", one["images"])):
        other = two[part]["parameters"] if part == "method" else two[part]
        keys |= {f"{part}.{key}" for key in inside.keys() | other.keys() if inside.get(key) != other.get(key)}
    return keys


@pytest.mark.parametrize("bits", make_recipes.ZEROQ_ROWS)
def test_gdfq_reads_no_image_and_holds_what_zeroq_holds(bits):
    recipe, zeroq = load_recipe(f"gdfq_{bits}"), load_recipe(f"zeroq_{bits}")
    assert (recipe.images.source, recipe.images.count, recipe.images.batch_size) == ("none", 0, 200)
    assert (recipe.weights, recipe.activations) == (zeroq.weights, zeroq.activations)
    assert (recipe.policy, recipe.overrides) == (zeroq.policy, zeroq.overrides)
    assert what_differs(f"gdfq_{bits}", f"gdfq-imagenet_{bits}") == {
        "images.batch_size", "method.warmup_epochs", "method.learning_rate", "method.conditioning",
    }


def test_fdda_has_one_image_a_class_and_8_bits_at_both_ends_where_its_name_says_so():
    for bits in make_recipes.FDDA_ROWS:
        images = load_recipe(f"fdda_{bits}").images
        assert (images.source, images.count, images.batch_size) == ("one-per-class", 0, 16)
        assert what_differs(f"fdda_{bits}", f"fdda-f8l8_{bits}") == {"policy", "overrides"}
        assert what_differs(f"fdda_{bits}", f"fdda-small_{bits}") == {
            "images.batch_size", *(f"method.{key}" for key in make_recipes.SMALL_FDDA)
        }
        assert what_differs(f"fdda-small_{bits}", f"fdda-f8l8-small_{bits}") == {"policy", "overrides"}


def test_dmbq_allocates_bits_and_takes_every_image():
    for bits in make_recipes.DMBQ_ROWS:
        recipe = load_recipe(f"dmbq_{bits}")
        assert (recipe.weights.levels, recipe.activations.levels, recipe.policy) == ("multibit", "nested", "qdrop")
        assert (recipe.images.count, recipe.images.batch_size) == (50_000, 512)
        assert what_differs(f"dmbq_{bits}", f"dmbq-small_{bits}") == {
            "images.batch_size", *(f"method.{key}" for key in make_recipes.SMALL_DMBQ)
        }



@pytest.mark.parametrize("name", ["gdfq_w4a4", "fdda_w4a4", "dmbq_w2a2"])
def test_what_the_papers_recipes_state_are_the_methods_defaults(name):
    choice = load_recipe(name).method
    defaults = find_method(MethodChoice(name=choice.name))[1].model_dump()
    different = {key for key, value in find_method(choice)[1].model_dump().items() if defaults[key] != value}
    assert different == set()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_recipes_that_the_documents_name_are_there(path: Path):
    names = set(re.findall(r"`([a-z][a-z0-9-]*_w\da\d)`", path.read_text(encoding="utf-8")))
    assert names <= set(available_recipes())
