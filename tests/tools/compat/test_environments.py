"""What environments hold, and that one that cannot be made is told with its command."""

import subprocess

import pytest

from isobit.pipeline.errors import InputError
from tools.compat import environments
from tools.compat.environments import NEWEST, ONNX_RUNTIME, TVM, Runtime, environment


@pytest.mark.parametrize(("version", "numpy"), [("1.17.3", "numpy<2"), ("1.18.1", "numpy<2"), ("1.22.1", "numpy")])
def test_old_wheels_get_the_numpy_that_they_were_built_against(version, numpy):
    assert Runtime(ONNX_RUNTIME, version).requirements == [f"onnxruntime=={version}", numpy]


def test_newest_has_no_version_and_tvm_its_interface_package():
    assert Runtime(ONNX_RUNTIME, NEWEST).requirements == ["onnxruntime", "numpy"]
    assert Runtime(TVM, "0.26.0").requirements == ["apache-tvm==0.26.0", "apache-tvm-ffi==0.1.14.post0", "numpy"]


@pytest.fixture
def made(monkeypatch):
    """Commands that were run in the place of pip."""
    commands = []

    def run(command, **options):
        commands.append(command)
        failed = any("none" in str(word) for word in command)
        return subprocess.CompletedProcess(command, int(failed), "", "ERROR: no such version\n" if failed else "")

    monkeypatch.setattr(environments.venv, "create", lambda place, with_pip: (place / "bin").mkdir(parents=True))
    monkeypatch.setattr(environments.subprocess, "run", run)
    return commands


def test_an_environment_is_made_once(made, tmp_path):
    runtime = Runtime(ONNX_RUNTIME, "1.22.1")
    assert environment(runtime, tmp_path) == tmp_path / "onnxruntime-1.22.1" / "bin" / "python"
    environment(runtime, tmp_path)
    assert len(made) == 1 and made[0][-2:] == ["onnxruntime==1.22.1", "numpy"]
    (tmp_path / "onnxruntime-1.22.1" / "ready").unlink()  # as where it was interrupted
    environment(runtime, tmp_path)
    assert len(made) == 2


def test_one_that_cannot_be_made_is_told_with_its_command(made, tmp_path):
    with pytest.raises(InputError, match=r"onnxruntime none cannot be installed: ERROR: no such version") as told:
        environment(Runtime(ONNX_RUNTIME, "none"), tmp_path)
    assert "pip install" in str(told.value)
