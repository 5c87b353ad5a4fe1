"""Registries are loud: duplicates raise, unknown names say what exists, broken modules are not swallowed."""

import importlib
import sys
from importlib.metadata import EntryPoint

import pytest

from isobit.pipeline.errors import RecipeError, TargetError
from isobit.pipeline.registry import Registry, discover


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


class Distribution:
    """What an entry point knows of where it came from."""

    def __init__(self, name, version="1.2"):
        self.name, self.version = name, version


@pytest.fixture
def plugged(package, monkeypatch):
    """A registry with a group, and a function that fakes what is installed: (name, module, distribution) each."""
    registry = Registry("method", RecipeError, "isobit.methods")
    monkeypatch.setattr(sys.modules[Registry.__module__], "under_test", registry, raising=False)

    def install(*points):
        made = [EntryPoint(name, module, "isobit.methods")._for(Distribution(dist)) for name, module, dist in points]
        monkeypatch.setattr(
            "isobit.pipeline.registry.entry_points", lambda group: made if group == "isobit.methods" else []
        )
        return registry

    return install


REGISTERS = "from isobit.pipeline import registry\nregistry.under_test.register('theirs')(7)\n"


def test_a_plug_in_is_listed_at_once_and_imported_when_it_is_asked_for(plugged, package):
    (package / "good.py").write_text(REGISTERS)
    (package / "broken.py").write_text("import no_such_module\n")
    registry = plugged(("theirs", "plugins_under_test.good", "good-one"), ("other", "plugins_under_test.broken", "bad"))
    registry.register("ours")(1)
    assert registry.names() == ["other", "ours", "theirs"] and registry.get("ours") == 1
    assert registry.loaded() == {"ours": 1} and "plugins_under_test.good" not in sys.modules
    assert registry.get("theirs") == 7 and registry.get("theirs") == 7
    assert registry.loaded() == {"ours": 1, "theirs": 7}
    with pytest.raises(RecipeError, match="Did you mean 'theirs'"):
        registry.get("thers")


def test_a_broken_plug_in_names_its_distribution(plugged, package):
    (package / "broken.py").write_text("import no_such_module\n")
    registry = plugged(("theirs", "plugins_under_test.broken", "bad-one"))
    with pytest.raises(RecipeError, match=r"'theirs' of bad-one 1.2 does not import: .*no_such_module") as caught:
        registry.get("theirs")
    assert caught.value.where == "entry point isobit.methods: theirs = plugins_under_test.broken"


def test_code_of_a_plug_in_that_ends_the_program_is_its_own_fault(plugged, package):
    (package / "ends.py").write_text("raise SystemExit(3)\n")
    (package / "good.py").write_text(REGISTERS)
    registry = plugged(("theirs", "plugins_under_test.good", "good-one"), ("other", "plugins_under_test.ends", "bad"))
    (found,) = registry.broken()
    assert found.what == "the method 'other' of bad 1.2 does not import: SystemExit: 3"


def test_a_plug_in_that_registers_nothing_names_its_distribution(plugged, package):
    (package / "empty.py").write_text("")
    with pytest.raises(RecipeError, match="'theirs' of idle 1.2 is not registered by its module"):
        plugged(("theirs", "plugins_under_test.empty", "idle")).get("theirs")


def test_a_name_that_is_taken_is_an_error_that_names_who_takes_it(plugged, package):
    (package / "good.py").write_text(REGISTERS)
    registry = plugged(("theirs", "plugins_under_test.good", "one"), ("theirs", "plugins_under_test.other", "two"))
    with pytest.raises(RecipeError, match=r"'theirs' of two 1.2 has the same name as that of one 1.2"):
        registry.names()
    registry = plugged(("ours", "plugins_under_test.good", "one"))
    registry.register("ours")(1)
    with pytest.raises(RecipeError, match=r"'ours' of one 1.2 has the same name as one that is there"):
        registry.get("ours")


def test_a_plug_in_whose_module_the_user_has_imported_is_no_clash(plugged, package):
    (package / "good.py").write_text(REGISTERS)
    registry = plugged(("theirs", "plugins_under_test.good", "one"))
    importlib.import_module("plugins_under_test.good")
    assert registry.get("theirs") == 7 and registry.names() == ["theirs"]
