"""What a shell is answered, asked by the environment as the shells' own scripts do."""

from __future__ import annotations

import shlex

import pytest
from typer.testing import CliRunner

from isobit.cli import app
from isobit.cli.completion import VARIABLE


def bash(line):
    words = shlex.split(line.replace("=", " = ")) + ([""] if line.endswith(" ") else [])
    asked = {VARIABLE: "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], env=asked).stdout.split()


def zsh(line):
    asked = {VARIABLE: "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    return CliRunner().invoke(app, [], env=asked).stdout.strip()


@pytest.mark.parametrize(("line", "wanted"), [
    ("isobit an", {"analyze"}), ("isobit build", {"build"}), ("isobit net.pth --recipe qd", {"qdrop_"}),
    ("isobit build net.pth --recipe qdrop_w4a", {"qdrop_w4a4", "qdrop_w4a8"}),
    ("isobit analyze net.pth --recipe adaround_w8a8", {"adaround_w8a8"}),
    ("isobit recipes nearest_w8a", {"nearest_w8a8"}),
    ("isobit build net.pth --target ", {"onnx", "tvm", "c", "reference"}),
    ("isobit net.pth --target tvm --device-profile x", {"x86-64-v3", "x86-64-avxvnni", "x86-64-vnni"}),
    ("isobit net.pth --device-profile ", {"x86-64-v3", "vnni"}), ("isobit net.pth --metric ma", {"map"}),
    ("isobit net.pth --channels b", {"bgr"}), ("isobit net.pth --device ", {"auto", "cpu", "cuda"}),
    ("isobit analyze net.pth --minimize l", {"latency"}), ("isobit build net.pth --calib", {"--calib-data"}),
    ("isobit net.pth --set method.name=ada", {"adaround"}), ("isobit net.pth --set images.source=", {"files"}),
])
def test_bash_completes_names_of_everything_that_has_one(line, wanted):
    assert wanted <= {*bash(line)}


def test_bash_completes_nothing_that_does_not_begin_so_and_leaves_files_to_bash():
    assert bash("isobit net.p") == [] and bash("isobit build ") == [] and bash("isobit net.pth --target z") == []
    assert bash("isobit net.pth --target tvm --device-profile v") == []  # that of another target


def test_zsh_is_answered_as_well():
    assert '"qdrop_w4a8"' in zsh("isobit build net.pth --recipe qdrop_w4") and zsh("isobit net.p") == "_files"
    assert '"compare"' in zsh("isobit co") and '"method.name=nearest"' in zsh("isobit net.pth --set method.name=nea")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_s_script_asks_by_the_variable(shell):
    said = CliRunner().invoke(app, [], env={VARIABLE: f"source_{shell}"}).stdout
    assert f"{VARIABLE}=complete_{shell}" in said and "isobit" in said
