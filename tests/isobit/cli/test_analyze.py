"""The command `isobit analyze`: what it shows, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isobit.cli import app
from isobit.cli.analyze import write_file
from isobit.judge import Judge
from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.drop import Drop
from tests.isobit.commands import ARCH, SMALL


@pytest.fixture
def analyze(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, calib="calib.npz", recipe="nearest_w4a8"):
        data = ["--calib-data", str(files / calib)] if calib else []
        return CliRunner().invoke(app, ["analyze", str(files / "model.pth"), "--arch", ARCH, "--recipe", recipe, *SMALL,
                                        "--bits", "4,8", *data, *map(str, arguments)])

    return run


def test_the_screen_shows_the_worst_first_and_says_time_and_memory_before(analyze, tmp_path):
    result = analyze("--worst", 2)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    lines = result.stdout.splitlines()
    assert "4 layers" in lines[0] and "12 samples" in lines[0]
    assert sum(line.startswith(("stem", "inner", "outer", "head")) for line in lines) == 2
    assert "measure sensitivities" in result.stderr and "expected: about" in result.stderr
    assert "memory:" in result.stderr and not list(tmp_path.iterdir())


def test_everything_is_one_json_object_on_stdout_and_in_a_file(analyze, tmp_path):
    result = analyze("--json", "--out", "all.json")
    shown, kept = json.loads(result.stdout), json.loads((tmp_path / "all.json").read_text())
    assert {**shown, "seconds": 0} == {**kept, "seconds": 0} and shown["exit_code"] == 0
    assert [layer["name"] for layer in shown["layers"]] == ["stem", "inner", "outer", "head"]
    assert set(shown["layers"][0]["at"]) == {"4", "8"}
    assert sorted(shown["ranked"]["layers"]) == ["head", "inner", "outer", "stem"]
    assert shown["layers"][0]["at"]["4"]["drop"]["title"] == "top-1 accuracy"


def test_bits_may_be_given_one_by_one(analyze):
    """The fixture gives 4 and 8."""
    result = analyze("--bits", 3, "--bits", "4", "--json")
    assert json.loads(result.stdout)["bits"] == [3, 4, 8], result.stderr


@pytest.mark.parametrize(("arguments", "texts"), [
    (("--bits", "4,x"), ("'4,x' is not a list of bits", "--bits")),
    (("--bits", "1"), ("nothing to measure at the bits [1]", "2 to 8")),
    (("--out", "."), ("is a folder", "--out")),
    (("--out", "no/such/file.json"), ("no folder", "--out")),
    (("--recipe", "nothing"), ("there is no recipe",)),
    (("--target", "nothing"), ("nothing",)),
    (("--metric", "nothing"), ("nothing",)),
])
def test_what_cannot_be_honoured_is_said_before_anything_is_read(analyze, arguments, texts):
    result = analyze(*arguments)
    assert result.exit_code == 2, result.stdout + repr(result.exception)
    assert all(text in result.stderr for text in texts), result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_is_replaced_only_where_that_is_asked_for(analyze, tmp_path):
    (tmp_path / "all.json").write_text("mine")
    assert "exists" in analyze("--out", "all.json").stderr and (tmp_path / "all.json").read_text() == "mine"
    assert analyze("--out", "all.json", "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "all.json").read_text())["layers"]


def test_data_is_asked_for(analyze):
    result = analyze(calib=None)
    assert result.exit_code == 2 and "--calib-data" in result.stderr


def test_a_search_writes_a_recipe_that_a_build_takes(analyze, files, tmp_path):
    result = analyze("--max-drop", 100, "--eval-data", files / "val.npz", "--calibrations", 3)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    assert "FOUND: " in result.stdout and "trial 1:" in result.stderr and "--set 'weights.bits=" in result.stdout
    text = (tmp_path / "model-onnx.yaml").read_text()
    assert "extends: nearest_w4a8" in text and "images:" in text  # --set is repeated in the file
    built = CliRunner().invoke(app, [
        str(files / "model.pth"), "--arch", ARCH, "--recipe", "model-onnx.yaml", "--calib-data",
        str(files / "calib.npz"), "--target", "reference", "--out", "out"])
    assert built.exit_code == 0, built.stderr


def test_nothing_that_passes_is_exit_code_one(analyze, monkeypatch):
    monkeypatch.setattr(Judge, "drop", lambda self, reference: Drop("top-1", "%", 90.0, 80.0, 10.0))
    result = analyze("--max-drop", 1, "--calibrations", 1, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == found["exit_code"] == 1 and not found["search"]["passed"]
    assert found["search"]["held_back"] and len(found["search"]["trials"]) == 1


def test_latency_is_measured_and_said(analyze, files):
    result = analyze("--max-drop", 100, "--eval-data", files / "val.npz", "--calibrations", 1, "--minimize", "latency")
    assert result.exit_code == 0 and "milliseconds with all weights at 4 bits" in result.stdout, result.stderr


@pytest.mark.parametrize(("arguments", "texts"), [
    (("--max-drop", -1), ("a drop of -1", "--max-drop")),
    (("--max-drop", 1, "--minimize", "power"), ("size, latency", "--minimize")),
    (("--max-drop", 1, "--save", "found.txt"), ("no recipe file", "--save")),
    (("--max-drop", 1, "--save", "net_w4a4.yaml"), ("cannot be the name", "--save")),
])
def test_a_search_that_cannot_be_honoured(analyze, arguments, texts):
    result = analyze(*arguments)
    assert result.exit_code == 2 and all(text in result.stderr for text in texts), result.stderr


@pytest.mark.parametrize("path", ["/", "."])
def test_a_folder_is_no_file_to_write(path):
    with pytest.raises(InputError, match="cannot be written: "):
        write_file(Path(path), "text")
