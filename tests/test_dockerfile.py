"""The Dockerfile, read without Docker: its commands are those of the checkout; what they need is installed first."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
STEPS = [tuple(line.split(None, 1)) for line in LINES if line and not line.startswith("#")]


def told(word: str) -> list[str]:
    return [rest for step, rest in STEPS if step == word]


def test_every_step_is_one_that_docker_knows_and_begins_from_a_slim_python():
    assert {step for step, _ in STEPS} <= {"FROM", "RUN", "USER", "WORKDIR", "COPY", "ARG", "ENV", "CMD"}
    (image,) = told("FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", image)
    least = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert version and least and int(version[1]) >= int(least[1])


def test_what_runs_is_installed_before_and_not_as_root():
    packages = set(told("RUN")[0].partition("--no-install-recommends ")[2].partition(" &&")[0].split())
    assert packages == {"gcc", "libc6-dev", "make"}
    (user,) = told("USER")
    places = [step for step, _ in STEPS]
    assert user != "root" and places.index("RUN") < places.index("USER") < places.index("COPY")
    assert told("COPY") == [f"--chown={user}:{user} . ."]
    assert STEPS[-1] == ("CMD", '["isobit", "--help"]')


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_its_make_targets_make_the_environment_of_the_demo():
    (target,) = re.findall(r"make (\S+)", told("RUN")[-1])
    make = ["make", "--no-print-directory", "--dry-run", "--always-make"]  # `make test` runs this below another make
    listed = subprocess.run([*make, target], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0 and "tools/environment.sh '.venv' '.venv/ready'" in listed.stdout
    demo = subprocess.run([*make, "demo"], cwd=ROOT, capture_output=True, text=True)
    assert listed.stdout.strip() in demo.stdout  # nothing is left to install when the container starts
    (path,) = re.findall(r'PATH="(\S+)/\.venv/bin:', told("ENV")[0])
    assert told("WORKDIR") == [path]


def test_the_context_leaves_out_what_a_checkout_grows():
    left = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "build", "artifacts", "**/__pycache__"} <= set(left)
    for name in ("Makefile", "pyproject.toml", "setup.py", "README.md", "LICENSE", "tools", "isobit", "recipes"):
        assert (ROOT / name).exists() and name not in left
