"""The product of a study, and keys that follow all that changes bytes."""

from __future__ import annotations

import shutil

import pytest
import yaml

from isobit.cli.artifacts.sweep import model_options
from isobit.pipeline.errors import InputError
from isobit.sweep import cells as module
from isobit.sweep.cells import KEY, cells_of
from isobit.sweep.hashes import tree_sha256
from isobit.sweep.study import load_study
from tests.examples.sweeps import SMALL, given, study


@pytest.fixture(autouse=True)
def fresh():
    """Files change within a test, as they do between two calls of the command."""
    clear()


def clear():
    tree_sha256.cache_clear()
    module._file_hashes.cache_clear()


def cells(path):
    clear()
    return cells_of(load_study(path, model_options()))


def keys(path):
    return [cell.key for cell in cells(path)]


def test_the_product_in_its_order(tmp_path):
    found = cells(study(tmp_path, recipes=["qdrop_w4a4", {"name": "minmax_w8a8", "set": SMALL}],
                        targets=["onnx", {"name": "c", "profile": ["generic", "cortex-m4"]}], seeds=[1, 2]))
    assert len(found) == len({cell.name for cell in found}) == 12
    assert [(cell.recipe, cell.target, cell.profile, cell.seed) for cell in found[:3]] == [
        ("qdrop_w4a4", "onnx", "generic", 1), ("qdrop_w4a4", "onnx", "generic", 2), ("qdrop_w4a4", "c", "generic", 1)]
    assert found[0].words[0] == str(tmp_path / "model.pth") and "--seed" in found[0].words
    readable = "model-minmax_w8a8+images.count=12+images.batch_size=4-c-cortex-m4-2"
    assert found[-1].name == f"{readable}-{found[-1].key[:KEY]}"


def test_a_recipe_may_be_for_some_models_and_have_seeds_of_its_own(tmp_path):
    """The same recipe stands there twice, for other models or other seeds."""
    first = given(tmp_path)
    models = [{**first, "name": "a"}, {**first, "name": "b", "parity_samples": 4}]
    path = study(tmp_path, models=models, seeds=[1], recipes=[
        "minmax_w8a8", {"name": "qdrop_w4a4", "models": ["b"], "seeds": [5, 6]},
        {"name": "qdrop_w4a4", "models": ["a"]}, {"name": "minmax_w8a8", "models": ["b"], "seeds": [2]}])
    assert [(cell.model, cell.recipe, cell.seed) for cell in cells(path)] == [
        ("a", "minmax_w8a8", 1), ("a", "qdrop_w4a4", 1),
        ("b", "minmax_w8a8", 1), ("b", "qdrop_w4a4", 5), ("b", "qdrop_w4a4", 6), ("b", "minmax_w8a8", 2)]
    with pytest.raises(InputError, match="twice: entries 0 and 1") as found:
        cells(study(tmp_path, recipes=["minmax_w8a8", {"name": "minmax_w8a8", "models": ["model"]}]))
    assert found.value.field == "recipes.1"


def test_the_key_follows_bytes_and_not_the_place(tmp_path):
    (tmp_path / "a").mkdir()
    path = study(tmp_path / "a")
    (before,) = keys(path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert keys(tmp_path / "b" / "study.yaml") == [before]
    for name in ("model.pth", "data.npz", "net.py"):
        kept = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(kept + b"\n")
        assert keys(path) != [before], name
        (tmp_path / "a" / name).write_bytes(kept)
    assert keys(path) == [before]


@pytest.mark.parametrize("changes", [
    {"seeds": [7]}, {"recipes": [{"name": "minmax_w4a8", "set": SMALL}]}, {"recipes": ["minmax_w8a8"]},
    {"targets": ["onnx"]}, {"resources": {"cpus": 2}}, {"resources": {"gpus": 1}},
])
def test_the_key_follows_what_the_build_is_told(tmp_path, changes):
    before = keys(study(tmp_path))
    assert keys(study(tmp_path, **changes)) != before


def test_the_key_follows_options_code_and_packages(tmp_path, monkeypatch):
    path = study(tmp_path)
    (before,) = keys(path)
    content = yaml.safe_load(path.read_text())
    content["models"][0]["parity_samples"] = 4
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    assert keys(tmp_path / "other.yaml") != [before]
    monkeypatch.setattr(module, "build_sha256", lambda: "another")
    assert keys(path) != [before]
    monkeypatch.undo()
    monkeypatch.setattr(module, "_packages", lambda: {"torch": "1"})
    assert keys(path) != [before]


def test_a_model_that_is_not_there_has_cells_all_the_same(tmp_path):
    path = study(tmp_path, models=[{"file": "none.pth", "calib_data": "nothing"}])
    assert len(cells(path)) == 1


def test_more_cells_than_anybody_builds_are_refused_before_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 5)
    assert len(cells(study(tmp_path, seeds=[1, 2, 3, 4, 5]))) == 5
    with pytest.raises(InputError, match="6 cells") as found:
        cells(study(tmp_path, seeds=[1, 2, 3], targets=["onnx", "c"]))
    assert found.value.field == "seeds"


def test_a_recipe_file_is_relative_to_the_study(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: minmax_w8a8\nseed: 5\n")
    (found,) = cells(study(tmp_path, recipes=["mine.yaml"]))
    assert found.recipe == "mine" and found.seed == 5
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: minmax_w8a8\nseed: 6\n")
    assert keys(tmp_path / "study.yaml") != [found.key]


@pytest.mark.parametrize(("changes", "field"), [
    ({"recipes": ["qdrop"]}, "recipes.0"), ({"recipes": ["minmax_w8a8", "nothing_w4a4"]}, "recipes.1"),
    ({"recipes": [{"name": "minmax_w8a8", "set": ["x=1"]}]}, "recipes.0"), ({"recipes": ["./none.yaml"]}, "recipes.0"),
    ({"targets": ["onnx", "onxx"]}, "targets.1"), ({"targets": [{"name": "onnx", "profile": "pi"}]},
                                                   "targets.0.profile"),
    ({"targets": ["onnx", {"name": "onnx", "profile": "generic"}]}, "targets.1"),
    ({"recipes": ["minmax_w8a8", {"name": "minmax_w8a8", "set": ["seed=1005"]}]}, "recipes.1"),
    ({"recipes": ["minmax_w8a8", "MINMAX_W8A8"]}, "recipes.1"),
])
def test_recipes_and_targets_that_cannot_be_name_their_field(tmp_path, changes, field):
    path = study(tmp_path, **changes)
    with pytest.raises(InputError) as found:
        cells(path)
    assert found.value.field == field and field.partition(".")[0] in found.value.what
