"""The wheel holds everything, takes one name at the top of site-packages, and builds next to a user's `pipeline`.

It is unpacked into a folder that comes first on the path; the dependencies are those of this environment.
"""

import configparser
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from email.parser import Parser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from isobit import ROOMS

ROOT = Path(__file__).parents[1]
FOLDERS = (*ROOMS, "recipes")
PLAIN = {
    "torch", "torchvision", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "onnxsim", "pydantic",
    "PyYAML", "typer", "rich", "jinja2", "pillow", "safetensors", "scipy",
}  # fmt: skip
# What only extras bring, and what our requirements do not bring with them: a plain build does without.
EXTRAS = ("matplotlib", "sklearn", "tvm", "tvm_ffi", "pytest", "hypothesis")
SECONDS = 0.5
NETWORK = """\
from torch import nn

from pipeline import WIDTH
from pipeline.blocks import block


def net():
    return nn.Sequential(*block(1, WIDTH), *block(WIDTH, WIDTH), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTH, 10))
"""
BLOCKS = """\
from torch import nn


def block(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
"""
SAVE = "import net, torch; torch.manual_seed(0); torch.save(net.net().state_dict(), 'model.pth')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built offline from a copy, so that no earlier build's files are in it."""
    there = {name: find_spec(name) is not None for name in ("pip", "setuptools", "wheel")}
    if not there["pip"] or not there["setuptools"]:
        pytest.skip("pip and setuptools build the wheel, and they are not installed here")
    if not there["wheel"] and tuple(map(int, version("setuptools").split(".")[:2])) < (70, 1):
        pytest.skip("setuptools before 70.1 builds wheels only with the package wheel, which is not installed here")
    source, out = tmp_path_factory.mktemp("source") / "isobit", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ("isobit", *FOLDERS):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
               "--disable-pip-version-check", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("isobit-*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The folder that stands for site-packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A folder with a network whose file imports a `pipeline` of its own, a checkpoint and data."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(NETWORK)
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "__init__.py").write_text("WIDTH = 8\n")
    (folder / "pipeline" / "blocks.py").write_text(BLOCKS)
    subprocess.run([sys.executable, "-c", SAVE], cwd=folder, check=True, env={})
    rng = np.random.default_rng(0)
    np.savez(folder / "calib.npz", x=rng.random((12, 1, 8, 8), dtype=np.float32), y=np.arange(12) % 10)
    return folder


def run(site, folder, *arguments):
    """A Python process that finds Isobit in `site` alone; `-P` keeps the current folder off its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(site), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def entry(site, without=()):
    """The program of the console script, in an environment that lacks some packages."""
    (info,) = site.glob("isobit-*.dist-info")
    scripts = configparser.ConfigParser()
    scripts.read(info / "entry_points.txt")
    module, function = scripts["console_scripts"]["isobit"].split(":")
    return f"import sys; sys.modules.update(dict.fromkeys({list(without)})); sys.argv[0] = 'isobit'; " \
           f"from {module} import {function}; {function}()"


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else_is_at_its_top(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    held = {name for name in held if ".dist-info/" not in name and not name.endswith("/")}
    assert {name.partition("/")[0] for name in held} == {"isobit"}
    ours = [path.relative_to(ROOT) for room in ("isobit", *FOLDERS) for path in (ROOT / room).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts]
    wanted = {path.as_posix() if path.parts[0] == "isobit" else f"isobit/{path.as_posix()}" for path in ours}
    assert held == wanted and len(wanted) > 300
    assert {"isobit/py.typed", "isobit/recipes/qdrop.yaml", "isobit/backends/tvm/device/loader.cc"} < held


def test_a_plain_installation_needs_these_packages_and_no_more(site):
    (info,) = site.glob("isobit-*.dist-info")
    needed = Parser().parsestr((info / "METADATA").read_text()).get_all("Requires-Dist")
    names = {text.split(";")[0].split(">")[0].split("<")[0].strip() for text in needed if "extra ==" not in text}
    assert {name.lower() for name in names} == {name.lower() for name in PLAIN}


def test_the_module_builds_for_onnx_beside_a_users_pipeline(site, user):
    build = ("model.pth", "--arch", "net.py:net", "--recipe", "minmax_w8a8", "--calib-data", "calib.npz",
             "--set", "images.count=12", "--set", "images.batch_size=4", "--json")
    done = run(site, user, "-m", "isobit", *build, "--target", "onnx", "--out", "onnx")
    assert json.loads(done.stdout)["passed"]
    run(site, user, "onnx/run.py")


def test_the_console_script_builds_for_c_without_what_extras_bring(site, user):
    cc = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if cc is None:
        pytest.skip("no C compiler here to prove the artifact with")
    build = ("model.pth", "--arch", "net.py:net", "--recipe", "minmax_w8a8", "--calib-data", "calib.npz",
             "--set", "images.count=12", "--set", "images.batch_size=4", "--json")
    done = run(site, user, "-P", "-c", entry(site, EXTRAS), *build, "--target", "c", "--out", "c")
    assert json.loads(done.stdout)["passed"]
    run(site, user, "c/run.py")


def test_it_is_the_unpacked_package_that_runs_and_it_lists_what_there_is(site, user):
    where = run(site, user, "-P", "-c", "import isobit.pipeline as room; print(room.__file__)").stdout.strip()
    assert Path(where) == site / "isobit" / "pipeline" / "__init__.py"
    shown = run(site, user, "-P", "-c", entry(site, EXTRAS), "recipes", "qdrop_w4a4").stdout
    assert "qdrop" in shown
    diagnosis = json.loads(run(site, user, "-P", "-c", entry(site, EXTRAS), "doctor", "--json").stdout)
    assert {"onnx", "c", "reference", "tvm"} <= {row["target"] for row in diagnosis["targets"]}


def test_importing_the_package_takes_under_half_a_second(site, user):
    def seconds(program):
        started = time.perf_counter()
        run(site, user, "-P", "-c", program)
        return time.perf_counter() - started

    least = {program: min(seconds(program) for _ in range(3)) for program in ("pass", "import isobit")}
    assert least["import isobit"] - least["pass"] < SECONDS, least
