"""The command `isobit bench`: a table, JSON and a plot, reasons for what was left out, exit codes."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from isobit.bench import peers as peers_module
from isobit.cli import app
from tests.examples.float_files import write_float
from tests.isobit.commands import FAST

pytestmark = pytest.mark.onnxruntime
QUICK = ("--rounds", "3", "--seconds", "0.003")


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments), *QUICK])


def words(line):
    """A line without its numbers."""
    return [word for word in line.split() if not word[0].isdigit()]


def test_it_prints_what_run_py_prints_of_the_folder_alone(command, tmp_path):
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    told = run("out")
    assert told.exit_code == 0, told.stderr
    done = subprocess.run([sys.executable, "run.py", "--bench", "--seconds", "0.003"], cwd=tmp_path / "out",
                          capture_output=True, text=True, check=True)
    assert [words(line) for line in told.stdout.splitlines()] == [words(line) for line in done.stdout.splitlines()]
    assert len(told.stdout.splitlines()) == 3


def test_contenders_are_beside_each_other_in_table_json_and_plot(command, tmp_path):
    pytest.importorskip("matplotlib")
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    write_float(tmp_path / "float.onnx")
    told = run("float.onnx", "out", "--peers", "quantize_static", "--json", "times.json", "--plot", "times.svg")
    assert told.exit_code == 0, told.stderr
    lines = told.stdout.splitlines()
    assert "time over float.onnx" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["float.onnx", "out", "quantize_static"]
    found = json.loads((tmp_path / "times.json").read_text())
    assert [entry["name"] for entry in found["contenders"]] == ["float.onnx", "out", "quantize_static"]
    assert found["rounds"] == 3 and (tmp_path / "times.svg").read_text().startswith("<?xml")


def test_what_cannot_run_is_named_and_where_nothing_can_that_is_an_error(command, tmp_path):
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    write_float(tmp_path / "float.onnx")
    (tmp_path / "out" / "model.onnx").write_bytes(b"")
    told = run("out", "float.onnx")
    assert told.exit_code == 2 and "out: not measured: model.onnx: changed since it was built" in told.stdout
    assert "ratios are over float.onnx, the first that runs" in told.stdout
    assert "not all that was asked for could be measured" in told.stderr and "where:   out\n" in told.stderr
    alone = run("out")
    assert alone.exit_code == 2 and "nothing could be measured" in alone.stderr and "changed since" in alone.stderr


@pytest.mark.parametrize(("peers", "code"), [("quantize_static,openvino", 2), ("all", 0)])
def test_a_tool_that_is_not_installed_is_a_failure_where_it_is_named(tmp_path, monkeypatch, peers, code):
    monkeypatch.setattr(peers_module, "package_versions", lambda *names: {})
    source = write_float(tmp_path / "float.onnx")
    told = run(source, "--peers", peers, "--json", tmp_path / "times.json")
    assert told.exit_code == code and "openvino: not measured: not installed: openvino" in told.stdout
    assert ("where:   openvino\n" in told.stderr) == (code != 0)
    found = json.loads((tmp_path / "times.json").read_text())
    assert [entry["name"] for entry in found["contenders"]] == ["float.onnx", "quantize_static"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("gone",), "no such file"),
        (("float.onnx", "--json", "gone/a.json"), "a file in a folder that is there"),
        (("float.onnx", "--plot", "a.pdf"), ".png or .svg"),
        (("float.onnx", "--peers", "openvin"), "Did you mean 'openvino'?"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_timed(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    write_float(tmp_path / "float.onnx")
    told = run(*arguments)
    assert told.exit_code == 2 and text in told.stderr and not told.stdout
