"""The lists: every recipe and every profile of every target has a row; a recipe is printed as a file that works."""

import json

import pytest
from typer.testing import CliRunner

from isobit.backends.base import BACKENDS
from isobit.cli import app
from isobit.pipeline.errors import TargetError
from isobit.pipeline.recipe.family import family_names
from isobit.pipeline.recipe.file import load_recipe


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_every_family_has_a_row():
    rows = json.loads(run("recipes", "--json").stdout)["recipes"]
    assert [row["name"] for row in rows] == [f"{name}_*" for name in family_names()]
    found = {row["name"]: row for row in rows}
    assert found["qdrop_*"] == {
        "name": "qdrop_*", "bits": "w2a2 to w8a8", "policy": "qdrop", "needs": "images",
        "what": "QDrop: rounding and activation scales together, block by block, with activations quantized at random",
    }
    assert found["zeroq_*"]["needs"] == "images (distilled makes them)"
    shown = run("recipes").stdout
    assert shown.splitlines()[0].split()[:2] == ["recipe", "bits"] and all(row["name"] in shown for row in rows)


def test_a_recipe_in_full_is_a_file_that_builds_the_same(tmp_path):
    shown = run("recipes", "qdrop_w4a4")
    assert shown.exit_code == 0
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    assert load_recipe(tmp_path / "shown.yaml") == load_recipe("qdrop_w4a4")
    assert json.loads(run("recipes", "qdrop_w4a4", "--json").stdout)["name"] == "qdrop_w4a4"


def test_a_recipe_that_is_not_there_is_an_error_as_elsewhere():
    told = run("recipes", "qdorp_w4a4")
    assert told.exit_code == 2 and "there is no recipe 'qdorp_w4a4'" in told.stderr


def test_every_profile_has_a_row_and_what_is_missing_is_named(monkeypatch):
    def check(profile):
        raise TargetError("there is no compiler", hint="apt install gcc; or `options.profile=generic`")

    monkeypatch.setattr(BACKENDS.get("c"), "check", check, raising=False)
    rows = json.loads(run("targets", "--json").stdout)["targets"]
    assert {(row["target"], row["profile"]) for row in rows} == {
        (name, profile) for name in BACKENDS.names() for profile in BACKENDS.get(name).profiles
    }
    assert all(row["ready"] for row in rows if row["target"] == "reference")
    [generic] = [row for row in rows if (row["target"], row["profile"]) == ("c", "generic")]
    assert (generic["ready"], generic["missing"]) == (False, "there is no compiler")
    assert generic["do"] == "apt install gcc; or --device-profile generic"
    assert "there is no compiler" in run("targets").stdout


def test_a_target_that_cannot_be_loaded_is_a_row(monkeypatch):
    def get(name, found=BACKENDS.get):
        if name == "c":
            raise TargetError("the target 'c' of fake 1.0 does not import", hint="reinstall it")
        return found(name)

    monkeypatch.setattr(BACKENDS, "get", get)
    rows = json.loads(run("targets", "--json").stdout)["targets"]
    [broken] = [row for row in rows if row["target"] == "c"]
    assert (broken["ready"], broken["do"]) == (False, "reinstall it") and "does not import" in broken["missing"]
    assert any(row["target"] == "onnx" and row["ready"] for row in rows)


@pytest.mark.parametrize("command", ["recipes", "targets", "doctor"])
def test_each_command_has_its_own_help(command):
    told = run(command, "--help")
    assert told.exit_code == 0 and f"{command} [OPTIONS]" in told.stdout and "--recipe" not in told.stdout
