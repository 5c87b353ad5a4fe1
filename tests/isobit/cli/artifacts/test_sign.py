"""The command `isobit sign`, and who signed it asked by `isobit verify --key`."""

import sys

import pytest
from typer.testing import CliRunner

from isobit.cli import app
from tests.isobit.commands import FAST

pytestmark = pytest.mark.onnxruntime


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_signed_artifact_passes_and_a_changed_or_unsigned_one_fails(command, tmp_path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    from tests.pipeline.artifact.test_signature import key_pair

    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    private, public = key_pair(tmp_path)
    unsigned = run("verify", "out", "--key", public)
    assert unsigned.exit_code == 1 and "nobody signed" in unsigned.stdout
    assert run("sign", "out", "--key", private).stdout.startswith("wrote out/model.sig")
    held = run("verify", "out", "--key", public)
    assert held.exit_code == 0 and "signed by the owner" in held.stdout and held.stdout.endswith("PASS\n")
    (tmp_path / "out" / "timings.json").write_text("{}")  # stands in no manifest
    assert run("verify", "out").exit_code == 0 and run("verify", "out", "--key", public).exit_code == 1


def test_without_the_package_the_message_says_what_installs_it(command, tmp_path, monkeypatch):
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    monkeypatch.setitem(sys.modules, "model_signing", None)
    result = run("sign", "out", "--key", tmp_path / "key.pem")
    assert result.exit_code == 2 and "isobit[sign]" in result.stderr
    assert run("sign", "gone", "--key", tmp_path / "key.pem").exit_code == 2
