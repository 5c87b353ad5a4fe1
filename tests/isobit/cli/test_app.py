"""Which command a command line means, and JSON alone on stdout whatever a network prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from isobit.cli import app
from tests.isobit.commands import ARCH, ENVIRONMENT, FAST, ROOT

NOISY = """
import atexit, ctypes, os, subprocess, sys
import tiny

def noise(text):
    print("noise of python", text)
    os.write(1, f"noise of the descriptor {text}\\n".encode())
    ctypes.CDLL(None).puts(f"noise of c {text}".encode())
    subprocess.run([sys.executable, "-c", "print('noise of a child')"])

noise("import")
atexit.register(noise, "atexit")

class Net(tiny.Residual):
    def __del__(self):
        print("noise of the end")

def end():
    sys.exit(0)
"""


def test_errors_are_json_as_well(command):
    result = command("--json", "--recipe", "nothing")
    summary = json.loads(result.stdout)
    assert result.exit_code == summary["exit_code"] == 2
    assert summary["error"]["stage"] == "recipe" and "there is no recipe" in summary["error"]["what"]


@pytest.mark.parametrize(("factory", "code"), [("Net", 0), ("end", 2), ("missing", 2)])
def test_json_is_alone_on_stdout_whatever_the_network_prints(files, tmp_path, factory, code):
    (tmp_path / "noisy.py").write_text(NOISY)
    shutil.copy(ROOT / "tests" / "examples" / "tiny.py", tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "compile.py"), str(files / "model.pth"), "--arch", f"{tmp_path}/noisy.py:{factory}",
         *FAST, "--calib-data", str(files / "calib.npz"), "--target", "reference", "--out", "out", "--json"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )
    assert json.loads(done.stdout)["exit_code"] == done.returncode == code, done.stderr
    for text in ("python import", "the descriptor import", "c import", "a child", "python atexit", "c atexit"):
        assert f"noise of {text}" in done.stderr
    assert ("noise of the end" in done.stderr) is (code == 0)


def test_a_command_line_that_cannot_be_read_is_json_as_well(command):
    result = command("--json", "--nothing-like-this")
    assert result.exit_code == json.loads(result.stdout)["exit_code"] == 2
    assert "--nothing-like-this" in json.loads(result.stdout)["error"]["what"]


def test_a_reader_that_is_gone_changes_no_exit_code(files, tmp_path):
    command = [sys.executable, str(ROOT / "compile.py"), str(files / "model.pth"), "--arch", ARCH, "--dry-run",
               "--input-size", "3,8,8", *FAST]
    for more in ((), ("--json",)):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([*command, *more], cwd=tmp_path, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE,
                              text=True, check=False)
        os.close(writer)
        assert done.returncode == 0 and "Broken" not in done.stderr, done.stderr


@pytest.mark.parametrize("words", [(), ("build",)])
def test_build_is_meant_with_and_without_its_name(command, words, files, tmp_path):
    result = CliRunner().invoke(app, [
        *words, str(files / "model.pth"), "--arch", ARCH, "--dry-run", "--input-size", "3,8,8", *FAST,
    ])
    assert result.exit_code == 0 and "dry run" in result.stdout


@pytest.mark.parametrize("given", [("./recipes",), ("build", "recipes"), ("--dry-run", "recipes")])
def test_a_model_file_with_the_name_of_a_command_is_reached(files, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    shutil.copy(files / "model.pth", "recipes")
    result = CliRunner().invoke(app, [*given, "--arch", ARCH, "--dry-run", "--input-size", "3,8,8", *FAST])
    assert result.exit_code == 0 and "dry run" in result.stdout


def test_a_users_module_of_our_name_is_theirs_from_a_checkout(tmp_path):
    """The command takes the checkout off the path again."""
    (tmp_path / "pipeline.py").write_text("CHANNELS = 5\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom pipeline import CHANNELS\n\n\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 2))\n"
    )
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 2))
    torch.save(layers.state_dict(), tmp_path / "net.pth")
    done = subprocess.run(
        [sys.executable, str(ROOT / "compile.py"), "net.pth", "--arch", "net.py:net", "--dry-run", "--input-size",
         "3,8,8", *FAST],
        cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": ""}, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_misspelt_command_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["recipies"])
    assert told.exit_code == 2 and "Did you mean 'recipes'?" in told.stderr
    (tmp_path / "recipies").write_bytes(b"x")
    assert "no command" not in CliRunner().invoke(app, ["recipies"]).stderr


def test_the_version_is_told():
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("isobit ")
