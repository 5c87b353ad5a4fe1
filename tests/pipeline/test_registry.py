"""Registries are loud: duplicates raise, unknown names say what exists, broken modules are not swallowed."""

import importlib
import sys

import pytest

from pipeline.errors import RecipeError, TargetError
from pipeline.registry import Registry, discover


def test_a_registered_function_is_found_and_unchanged():
    registry = Registry("method", RecipeError)

    @registry.register("nearest")
    def nearest():
        return 7

    assert nearest() == 7
    assert registry.get("nearest") is nearest


def test_names_are_sorted():
    registry = Registry("method", RecipeError)
    for name in ("qdrop", "adaround", "nearest"):
        registry.register(name)(name)
    assert registry.names() == ["adaround", "nearest", "qdrop"]


def test_a_duplicate_raises_and_keeps_the_first():
    registry = Registry("target", TargetError)
    registry.register("onnx")("first")
    with pytest.raises(ValueError, match="target 'onnx' is registered twice"):
        registry.register("onnx")("second")
    assert registry.get("onnx") == "first"


def test_an_unknown_name_raises_the_given_type_with_the_list_and_the_nearest_spelling():
    registry = Registry("target", TargetError)
    registry.register("reference")(1)
    registry.register("onnx")(2)
    with pytest.raises(TargetError) as caught:
        registry.get("onxx")
    assert caught.value.allowed == "onnx, reference"
    assert caught.value.hint == "Did you mean 'onnx'?"


def test_an_empty_registry_says_so():
    with pytest.raises(RecipeError, match="no method is registered"):
        Registry("method", RecipeError).get("qdrop")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `plugins_under_test` on disk; yields its folder and forgets its modules afterwards."""
    folder = tmp_path / "plugins_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("seen = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "plugins_under_test"]:
        del sys.modules[name]


def test_discover_imports_every_module_and_folder_of_a_package(package):
    (package / "b.py").write_text("import plugins_under_test\nplugins_under_test.seen.append('b')\n")
    (package / "a").mkdir()
    (package / "a" / "__init__.py").write_text("import plugins_under_test\nplugins_under_test.seen.append('a')\n")
    module = importlib.import_module("plugins_under_test")
    assert discover(module) == ["plugins_under_test.a", "plugins_under_test.b"]
    assert module.seen == ["a", "b"]


def test_discover_lets_an_error_in_a_module_through(package):
    (package / "broken.py").write_text("raise ZeroDivisionError('broken plugin')\n")
    with pytest.raises(ZeroDivisionError, match="broken plugin"):
        discover(importlib.import_module("plugins_under_test"))
