"""`make`'s environment: a half-finished one is built again, a foreign one is left alone, an old Python is refused.

Continuous integration: what it installs is what the targets ask for, and what it cannot install it says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from isobit.backends.tvm.profiles import EMULATOR_PACKAGE, PROFILES

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


# --- .ci/run ------------------------------------------------------------------------------------------------------

# Any other command: it notes how it was called, and fails where it was told to.
FAKE_COMMAND = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
    *"apt-get $APT_FAILS"*) exit 100 ;;
    *"pip install"*) exit "${PIP_FAILS:-0}" ;;
    "make .venv/ready") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "make test") echo "5 passed, 1 skipped in 0.10s"; exit "${TESTS_FAIL:-0}" ;;
esac
"""
TOOLS = ("g++", "clang", "aarch64-linux-gnu-g++", "qemu-aarch64", "arm-none-eabi-gcc", "qemu-system-arm",
         "chromedriver")


@pytest.fixture
def clone(folder):
    """A clean clone in which all that .ci/run calls is fake; root, so that no sudo is asked for."""
    for command in ("dirname", "mktemp", "tee", "grep", "tail", "rm", "cat", "sleep", "mkdir", "cp"):
        if not (folder / "bin" / command).exists():
            (folder / "bin" / command).symlink_to(shutil.which(command))
    fakes = {"make": FAKE_COMMAND, "git": FAKE_COMMAND, "apt-get": FAKE_COMMAND, "id": "#!/bin/bash\necho 0\n",
             "env": '#!/bin/bash\nshift\nexec "$@"\n'}
    for command, text in fakes.items():
        (folder / "bin" / command).write_text(text)
        (folder / "bin" / command).chmod(0o755)
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    return folder


def integrate(clone: Path, **environment: str):
    """Runs .ci/run; returns the finished process and the calls of apt-get, pip and make."""
    calls = clone / "calls"
    calls.write_text("")
    bash = shutil.which("bash")
    done = subprocess.run(
        [bash, str(clone / ".ci" / "run")], cwd=clone, capture_output=True, text=True,
        env={"PATH": str(clone / "bin"), "CALLS": str(calls), "APT_FAILS": "never", "RETRY_SECONDS": "0",
             **environment},
    )  # fmt: skip
    return done, [line for line in calls.read_text().splitlines() if line.startswith(("apt-get", "make", "python -m"))]


def test_ci_installs_what_the_device_profiles_ask_for(clone):
    done, calls = integrate(clone)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "5 passed, 1 skipped in 0.10s"
    (installed,) = (line.split() for line in calls if line.startswith("apt-get install"))
    cross = {profile.machine.cross_package for profile in PROFILES.values() if profile.machine.name != "x86_64"}
    assert {"g++", EMULATOR_PACKAGE, *cross} <= set(installed)
    assert {"gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"} <= set(installed)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"tvm", "detection", "browser", "docs"} <= set(extras) and "chromium-driver" in installed
    pip = [line for line in calls if "pip install" in line]
    assert [line.split("--editable ")[1] for line in pip] == [
        f".[{extra}]" for extra in ("tvm", "detection", "browser", "docs", "sweep", "slurm", "sign")]
    steps = [calls.index(call) for call in ("make .venv/ready", pip[0], pip[6], "make test-slow", "make test")]
    assert steps == sorted(steps)


def test_ci_leaves_apt_alone_where_every_tool_is_there(clone):
    for tool in TOOLS:
        (clone / "bin" / tool).write_text(FAKE_COMMAND)
        (clone / "bin" / tool).chmod(0o755)
    done, calls = integrate(clone)
    assert done.returncode == 0 and not any(line.startswith("apt-get") for line in calls)
    assert "not installed" not in done.stdout


@pytest.mark.parametrize(
    ("failing", "attempts"), [("update", ["update"] * 3), ("install", ["update", *["install"] * 3])]
)
def test_ci_tries_three_times_and_says_what_it_did_without(clone, failing, attempts):
    done, calls = integrate(clone, APT_FAILS=failing)
    assert [line.split()[1] for line in calls if line.startswith("apt-get")] == attempts
    *_, said, last = done.stdout.splitlines()
    assert said.startswith("not installed, so tests were skipped: g++ clang g++-aarch64-linux-gnu qemu-user")
    assert (done.returncode, last) == (0, "5 passed, 1 skipped in 0.10s")


def test_ci_runs_without_the_extras_and_says_so(clone):
    done, calls = integrate(clone, PIP_FAILS="1")
    assert sum("pip install" in line for line in calls) == 21
    assert done.returncode == 0
    said = "not installed, so tests were skipped: .[tvm] .[detection] .[browser] .[docs] .[sweep] .[slurm] .[sign]"
    assert said in done.stdout


def test_ci_fails_where_the_tests_fail(clone):
    assert integrate(clone, TESTS_FAIL="2")[0].returncode == 2


@pytest.mark.parametrize("name", ["Makefile", "tools/environment.sh"])
def test_make_leaves_the_system_alone(name):
    text = (ROOT / name).read_text()
    assert "apt-get" not in text and "sudo" not in text
