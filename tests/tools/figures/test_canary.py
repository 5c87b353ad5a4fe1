"""Two checkouts are compared by what they build; a difference is named, and two failures show nothing."""

import shutil
from pathlib import Path

import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.recipe.family import list_families
from tools.code_state import SOURCES
from tools.documents import read_json
from tools.figures import canary

ROOT = Path(__file__).parents[3]
BUILDS = (("mse_w4a8", canary.FEW, "onnx"),)


@pytest.fixture
def older(tmp_path):
    """A copy of this checkout with other words, and other arithmetic where a test asks for it."""
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, tmp_path / "older" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("compile.py", "recipes"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "older" / name)
    return tmp_path / "older"


@pytest.mark.slow
def test_a_change_that_moves_no_number_is_noted(older, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(canary, "BUILDS", BUILDS)
    folder = older / "calib" / "ranges"
    file = folder / "range_search.py"
    file.write_text(file.read_text() + "\n\nANOTHER = 1\n")
    docs = tmp_path / "docs"
    docs.mkdir()
    assert canary.main([str(older), "--docs", str(docs)]) == 0
    assert "noted for calibration, ranges" in capsys.readouterr().out
    assert set(read_json(docs / "code.json")["same"]) == {"calibration", "ranges"}
    assert canary.main([str(ROOT), "--docs", str(docs)]) == 0
    assert "no area that builds run through changed" in capsys.readouterr().out


def test_files_that_differ_are_named(tmp_path, monkeypatch, capsys):
    found = iter([{"model.onnx": "1", "golden.npz": "2"}, {"model.onnx": "3", "golden.npz": "2"}])
    monkeypatch.setattr(canary, "BUILDS", BUILDS)
    monkeypatch.setattr(canary, "built", lambda *_: next(found))
    assert list(canary.compare(tmp_path, ROOT)) == [
        "mse_w4a8 images.count=32 images.batch_size=16 on onnx: model.onnx differ"]


def test_a_build_that_fails_shows_nothing(tmp_path):
    canary.write_network(tmp_path)
    with pytest.raises(InputError, match="the build of none_w4a8 on onnx failed"):
        canary.built(ROOT, "none_w4a8", (), "onnx", tmp_path)


def test_every_recipe_of_the_builds_exists():
    families = {family.name for family in list_families()}
    assert {recipe.rsplit("_", 1)[0] for recipe, _, _ in canary.BUILDS} <= families
