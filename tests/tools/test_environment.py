"""`make`'s environment: a half-finished one is built again, a foreign one is left alone, an old Python is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A Python that only notes how it is called; `-m venv` makes an environment with itself inside, as the real one does.
FAKE_PYTHON = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
    *version_info*) exit "${TOO_OLD:-0}" ;;
    *ensurepip*) exit "${NO_VENV:-0}" ;;
    -V) echo "Python 3.x" ;;
    "-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    *"pip install"*) exit "${PIP_FAILS:-0}" ;;
esac
"""


@pytest.fixture
def folder(tmp_path):
    """A checkout's corner in which the only Python on the path is the fake one."""
    (tmp_path / "bin").mkdir()
    for command in ("bash", "dirname", "basename", "mkdir", "rm", "cp", "touch"):
        (tmp_path / "bin" / command).symlink_to(shutil.which(command))
    (tmp_path / "bin" / "python3").write_text(FAKE_PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def make_environment(folder: Path, venv: str = ".venv", stamp: str = ".venv/ready", **environment: str):
    """Runs the script; returns the finished process and the calls that the fake Python noted."""
    calls = folder / "calls"
    calls.write_text("")
    done = subprocess.run(
        ["bash", str(ROOT / "tools" / "environment.sh"), venv, stamp],
        cwd=folder,
        env={"PATH": str(folder / "bin"), "CALLS": str(calls), **environment},
        capture_output=True,
        text=True,
    )
    return done, calls.read_text()


def test_fresh_checkout_gets_an_environment_and_a_stamp(folder):
    done, calls = make_environment(folder)
    assert done.returncode == 0, done.stderr
    assert calls.index("python3 -m venv --clear .venv") < calls.index("python -m pip install")
    assert (folder / ".venv" / "ready").exists()


def test_failed_installation_leaves_no_stamp_and_the_next_run_starts_from_nothing(folder):
    done, _ = make_environment(folder, PIP_FAILS="1")
    assert done.returncode != 0
    assert not (folder / ".venv" / "ready").exists()
    (folder / ".venv" / "half-written").touch()
    done, calls = make_environment(folder)
    assert done.returncode == 0, done.stderr
    assert "venv --clear" in calls
    assert not (folder / ".venv" / "half-written").exists()


def test_changed_project_file_installs_without_clearing_and_a_failure_takes_the_stamp_away(folder):
    make_environment(folder)
    (folder / ".venv" / "kept").touch()
    done, calls = make_environment(folder, PIP_FAILS="1")
    assert done.returncode != 0
    assert "venv --clear" not in calls
    assert (folder / ".venv" / "kept").exists()
    assert not (folder / ".venv" / "ready").exists()


@pytest.mark.parametrize(
    ("lack", "says"), [("TOO_OLD", "python3 (Python 3.x)"), ("NO_VENV", "apt install python3-venv")]
)
def test_unusable_python_is_named_with_the_reason(folder, lack, says):
    done, calls = make_environment(folder, **{lack: "1"})
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr
    assert says in done.stderr
    assert "-m venv" not in calls


def test_foreign_environment_that_has_everything_is_left_alone(folder):
    """The environment of this very test run has pytest; a pip that is called would fail the script."""
    project = '[project]\ndependencies = ["pytest>=8"]\noptional-dependencies.dev = [{}]\n'
    (folder / "pyproject.toml").write_text(project.format(""))
    venv = folder / "foreign"
    (venv / "bin").mkdir(parents=True)
    wrapper = f'#!/bin/bash\ncase "$*" in *pip*) exit 7 ;; esac\nexec "{sys.executable}" "$@"\n'
    (venv / "bin" / "python").write_text(wrapper)
    (venv / "bin" / "python").chmod(0o755)
    done, _ = make_environment(folder, str(venv), "build/ready-foreign", HOME=os.environ.get("HOME", ""))
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "build" / "ready-foreign").exists()

    (folder / "pyproject.toml").write_text(project.format('"no-such-package>=1", "pytest>=1000000"'))
    done, _ = make_environment(folder, str(venv), "build/ready-foreign")
    assert done.returncode == 7
    assert "no-such-package>=1 (installed: nothing)" in done.stderr
    assert f"pytest>=1000000 (installed: {pytest.__version__})" in done.stderr
    assert not (folder / "build" / "ready-foreign").exists()

    (folder / "pyproject.toml").write_text("<<<<<<< not TOML")
    done, _ = make_environment(folder, str(venv), "build/ready-foreign")
    assert done.returncode == 1
    assert "cannot tell what VENV=" in done.stderr


def test_foreign_environment_that_does_not_exist_is_not_made(folder):
    done, calls = make_environment(folder, "elsewhere", "build/ready-elsewhere")
    assert done.returncode != 0
    assert "VENV=elsewhere holds no bin/python" in done.stderr
    assert calls == ""
