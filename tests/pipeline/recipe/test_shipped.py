"""The shipped families: every name that ever stood in a manifest gives the same recipe, and their files read well."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from isobit.pipeline.recipe.family import family_names, list_families, recipes_folder
from isobit.pipeline.recipe.file import load_recipe

ROOT = Path(__file__).resolve().parents[3]
HASHES = {f"{family}_{bits}": digest for family, table in
          json.loads((Path(__file__).parent / "hashes.json").read_text()).items() for bits, digest in table.items()}
METHOD_OF = {"minmax": "nearest", "mse": "nearest", "captq": "qdrop", "captq-smooth": "qdrop", "captq-brecq": "brecq",
             "zeroq-qdrop": "qdrop", "generated-qdrop": "qdrop", "zeroq-qdrop-finish": "qdrop",
             "isobit": "qdrop", "isobit-thorough": "qdrop", "isobit-fast": "qdrop"}
OWN_STEPS = {"isobit": 200, "isobit-thorough": 2000, "isobit-fast": 100}
STEPS = {"nearest": None, "zeroq": None, "adaround": 10000, "gdfq": 200, "fdda": 200, "dmbq": None}
EXTREMES = {"minmax", "zeroq", "gdfq", "gdfq-imagenet", "fdda", "fdda-f8l8", "fdda-small", "fdda-f8l8-small"}
POLICIES = {"captq": "captq", "captq-smooth": "captq", "captq-brecq": "brecq", "brecq": "brecq-intended",
            "brecq-mobilenetv2": "brecq-intended", **dict.fromkeys(EXTREMES - {"minmax"}, "none"),
            "fdda-f8l8": "captq", "fdda-f8l8-small": "captq", "nearest-finish": "captq",
            **dict.fromkeys(("isobit", "isobit-fast", "isobit-thorough"), "depthwise")}
# Families that never had a file for each recipe.
NEWER = {"nearest-finish", "adaround-finish", "qdrop-finish", "pdquant-finish", "zeroq-qdrop-finish",
         "isobit", "isobit-fast", "isobit-thorough"}
FAMILIES = {family.name: family for family in list_families()}
EVERY = [name for family in FAMILIES.values() for name in family.recipes]


def parameters(name):
    return load_recipe(name).method.parameters


# `hashes.json` holds the recipes as they were while each had a file of its own. Artifacts name them by this hash: one
# that changes is another recipe, and wants another name.
def test_a_recipe_keeps_its_text():
    assert len(HASHES) == 124
    assert {name: load_recipe(name).sha256[:12] for name in HASHES} == HASHES


def test_the_families_are_these():
    assert set(FAMILIES) == {name.rpartition("_")[0] for name in HASHES} | NEWER


def test_every_pair_of_bits_is_there_except_where_levels_end_at_4():
    every = tuple(f"w{weights}a{activations}" for weights in range(2, 9) for activations in range(2, 9))
    few = tuple(f"w{weights}a{activations}" for weights in range(2, 5) for activations in range(2, 5))
    assert {name: family.bits for name, family in FAMILIES.items()} == {
        name: few if name.startswith("dmbq") else every for name in FAMILIES
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_is_what_its_name_says(name):
    for full in FAMILIES[name].recipes:
        recipe = load_recipe(full)
        weights, activations = re.fullmatch(r"[a-z0-9-]+_w(\d)a(\d)", full).groups()
        assert recipe.name == full
        assert (recipe.weights.bits, recipe.activations.bits) == (int(weights), int(activations))
        assert recipe.method.name == METHOD_OF.get(name, name.split("-")[0]) == FAMILIES[name].method
        assert recipe.method.parameters.get("steps") == OWN_STEPS.get(name, STEPS.get(recipe.method.name, 20000))
        assert recipe.weights.range == recipe.activations.range == ("minmax" if name in EXTREMES else "mse")
        # Integer kernels want zero point 0, and 8-bit codes have no room to be moved there.
        assert all(line.weights is None for line in recipe.overrides)
        assert recipe.weights.symmetric == (recipe.weights.bits == 8 or recipe.weights.levels == "multibit")
        own = POLICIES.get(name, "qdrop")
        assert recipe.policy == ("none" if full.endswith("w8a8") else own) and FAMILIES[name].policy == own


def test_only_the_average_has_bits_of_its_own_and_only_below_8():
    for name in EVERY:
        recipe = load_recipe(name)
        alike = POLICIES.get(name.rpartition("_")[0]) == "none"
        held = [(line.where, line.activations.bits, line.output) for line in recipe.overrides]
        assert held == ([("last", 8, None)] if alike and recipe.activations.bits < 8 else [])


@pytest.mark.parametrize("name", family_names())
def test_a_file_is_short_says_what_it_is_and_reads_the_same_in_both_versions_of_yaml(name):
    text = (recipes_folder() / f"{name}.yaml").read_text()
    lines = text.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 120
    plain, family = yaml.safe_load(text), FAMILIES[name]
    assert "name" not in plain and plain["summary"] == family.summary
    assert re.search(r"arXiv \d{4}\.\d{5}|CVPR 2021", family.paper)
    stated = {key: value for key, value in plain.get("method", {}).items() if key != "name"}
    assert stated.items() <= parameters(f"{name}_w4a4").items()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_recipes_that_the_documents_name_are_there(path: Path):
    assert set(re.findall(r"`([a-z][a-z0-9-]*_w\da\d)`", path.read_text(encoding="utf-8"))) <= set(EVERY)


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
    variants = [f"{method}-{network}" for method, network in (
        ("brecq", "mobilenetv2"), ("qdrop", "mobilenetv2"), ("qdrop", "mnasnet"), ("pdquant", "mobilenetv2"),
        ("pdquant", "mnasnet"), ("pdquant", "regnet"))]
    for variant, bits in itertools.product(variants, ("w8a8", "w4a4", "w5a3", "w2a2")):
        own, base = load_recipe(f"{variant}_{bits}"), load_recipe(f"{variant.partition('-')[0]}_{bits}")
        assert own.model_copy(update={"name": base.name, "method": base.method}) == base
        assert own.method.name == base.method.name and own.method.parameters.keys() == base.method.parameters.keys()


@pytest.mark.parametrize(
    ("family", "source", "method", "policy"),
    [("captq", "captq-random", "qdrop", "captq"), ("captq-smooth", "captq-smooth", "qdrop", "captq"),
     ("captq-brecq", "captq-random", "brecq", "brecq")],
)  # fmt: skip
def test_captq_is_a_selection_and_a_policy_on_another_method(family, source, method, policy):
    for bits in ("w4a4", "w3a3", "w2a4", "w2a2"):
        recipe, base = load_recipe(f"{family}_{bits}"), load_recipe(f"{method}_{bits}")
        assert recipe.images.source == source and recipe.policy == policy
        assert (recipe.method, recipe.weights, recipe.activations) == (base.method, base.weights, base.activations)


@pytest.mark.parametrize(("family", "source"), [("zeroq-qdrop", "distilled"), ("generated-qdrop", "generated")])
def test_data_free_qdrop_is_qdrop_on_images_that_are_made(family, source):
    for bits in ("w8a8", "w4a4", "w3a3", "w2a2"):
        recipe, base = load_recipe(f"{family}_{bits}"), load_recipe(f"qdrop_{bits}")
        assert recipe.images.source == source
        assert recipe.model_copy(update={"name": base.name, "images": base.images}) == base


def test_zeroq_holds_the_average_at_8_bits_and_widens_ranges_where_there_are_bits_for_it():
    for bits in ("w8a8", "w4a8", "w8a4", "w4a4"):
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


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w8a4", "w4a4"])
def test_gdfq_reads_no_image_and_holds_what_zeroq_holds(bits):
    recipe, zeroq = load_recipe(f"gdfq_{bits}"), load_recipe(f"zeroq_{bits}")
    assert (recipe.images.source, recipe.images.count, recipe.images.batch_size) == ("none", 0, 200)
    assert (recipe.weights, recipe.activations) == (zeroq.weights, zeroq.activations)
    assert (recipe.policy, recipe.overrides) == (zeroq.policy, zeroq.overrides)
    assert what_differs(f"gdfq_{bits}", f"gdfq-imagenet_{bits}") == {
        "images.batch_size", "method.warmup_epochs", "method.learning_rate", "method.conditioning",
    }


def test_fdda_has_one_image_a_class_and_8_bits_at_both_ends_where_its_name_says_so():
    for bits in ("w4a4", "w5a5"):
        images = load_recipe(f"fdda_{bits}").images
        assert (images.source, images.count, images.batch_size) == ("one-per-class", 0, 16)
        assert what_differs(f"fdda_{bits}", f"fdda-f8l8_{bits}") == {"policy", "overrides"}
        assert what_differs(f"fdda_{bits}", f"fdda-small_{bits}") == {
            "images.batch_size", "method.warmup_epochs", "method.crop", "method.generated_crop",
            "method.rate_period", "method.tracking",
        }
        assert what_differs(f"fdda-small_{bits}", f"fdda-f8l8-small_{bits}") == {"policy", "overrides"}


def test_dmbq_allocates_bits_and_takes_every_image():
    for bits in ("w4a4", "w2a2"):
        recipe = load_recipe(f"dmbq_{bits}")
        assert (recipe.weights.levels, recipe.activations.levels, recipe.policy) == ("multibit", "nested", "qdrop")
        assert (recipe.images.count, recipe.images.batch_size) == (50_000, 512)
        assert what_differs(f"dmbq_{bits}", f"dmbq-small_{bits}") == {
            "images.batch_size", "method.start_epochs", "method.epochs", "method.learning_rate", "method.window",
            "method.distillation",
        }
