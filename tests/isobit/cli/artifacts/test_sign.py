"""The command `isobit sign`, and who signed it asked by `isobit verify --key`."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from isobit.cli import app
from tests.isobit.commands import FAST
from tests.pipeline.artifact.keys import key_pair

pytestmark = pytest.mark.onnxruntime


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def on_device(folder, public):
    command = [sys.executable, "run.py", "--seconds", "0.05", "--require-signature", str(public)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()[-1]


def test_a_signed_artifact_passes_and_a_changed_or_unsigned_one_fails(command, tmp_path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    private, public = key_pair(tmp_path)
    unsigned = run("verify", "out", "--key", public)
    assert unsigned.exit_code == 1 and "nobody signed" in unsigned.stdout
    assert run("sign", "out", "--key", private).stdout.startswith("wrote out/model.sig")
    held = run("verify", "out", "--key", public)
    assert held.exit_code == 0 and "signed by the owner" in held.stdout and held.stdout.endswith("PASS\n")
    assert on_device(tmp_path / "out", public) == (0, "PASS")
    (tmp_path / "out" / "timings.json").write_text("{}")  # stands in no manifest
    assert on_device(tmp_path / "out", public) == (1, "FAIL")
    assert run("verify", "out").exit_code == 0 and run("verify", "out", "--key", public).exit_code == 1


def test_without_the_package_the_message_says_what_installs_it(command, tmp_path, monkeypatch):
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    monkeypatch.setitem(sys.modules, "model_signing", None)
    result = run("sign", "out", "--key", tmp_path / "key.pem")
    assert result.exit_code == 2 and "isobit[sign]" in result.stderr
    assert run("sign", "gone", "--key", tmp_path / "key.pem").exit_code == 2
