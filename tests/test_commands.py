"""Every command in a `console` or `bash` block of README and docs/ runs here on small stand-ins, or says why not.

A document's commands run in its order in one folder that holds what a user would have. A command of a new kind fails
until it is runnable here or is listed in `NOT_RUN` with a reason.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from typer.testing import CliRunner

from isobit.cli import app
from tests.examples.tiny import Residual

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("isobit", "python", "cc", "cd")  # what runs here; any other program needs an entry below

# What is written otherwise so that it takes seconds: the documents show full size, the test a tiny network.
SMALLER = (
    (r"--arch resnet18\b", "--arch own_nets.py:small"),
    (r"--input-size 224\b", "--input-size 16"),
    (r"--resize 240x320\b", "--resize 32x32"),
    (r"method\.steps=\d+", "method.steps=2"),
    (r"--max-drop [\d.]+", "--max-drop 100"),  # random weights
)
# What is added, by what the command says; the recipe that is named, or the default.
QUICK = {
    r"--recipe isobit_": "--set method.steps=2 --set finish.steps=2",
    r"--recipe isobit-fast_": "--set finish.steps=2",
    r"--recipe zeroq_": "--set images.count=8 --set images.batch=4 --set images.iterations=5",
    r"\.(pth|onnx) (?!.*--recipe)": "--set method.steps=2 --set finish.steps=2",
    r"\.(pth|onnx) (?!.*zeroq_)": "--set images.count=12 --set images.batch_size=4",
}
# Made between two commands, in place of what the user has.
BEFORE = {"isobit compare artifacts/release artifacts/net": "cp -r artifacts/net artifacts/release"}
# What a command needs beside Python: modules and programs; it is left out where one is missing.
NEEDS = {
    "--target tvm": ("tvm", "aarch64-linux-gnu-g++", "qemu-aarch64"),
    "cortex-m4": ("arm-none-eabi-gcc", "qemu-system-arm"),
    "--metric map": ("faster_coco_eval",),
    "cc -std": ("cc",),
}
# Not run, and why; a reason may name the test that performs it.
NOT_RUN = {
    "pip install .": "installs: tests/test_wheel.py builds the wheel and runs it",
    "docker build -t isobit .": "needs Docker: tests/test_dockerfile.py reads the file",
    "docker run --rm isobit make demo": "needs Docker: tests/test_dockerfile.py reads the file",
    "make demo": "tests/tools/test_demo.py runs its commands",
    "scp -r artifacts/pi pi:": "needs a device",
    "ssh pi python3 pi/run.py": "needs a device",
    "python tools/check/levels.py --write-docs": "needs ../shared and minutes: tests/tools/check/test_levels.py",
    "python tools/check/compat.py": "installs runtimes: tests/tools/check/test_compat.py",
    "make bench BENCH_ARGS=--write-docs": "hours: tests/tools/bench/test_docs.py",
    "python tools/reproduce/reproduce.py --jobs 2": "hours: tests/tools/reproduce/test_docs.py",
    "pip install apache-tvm-ffi==0.1.14.post1 numpy": "installs on the device",
    "python run.py": "of a module for the device: tests/backends/tvm/device/test_device_files.py",
    "python run.py --write-input input.bin": "tests/backends/tvm/device/test_device_files.py",
    "./loader trace model.so input.bin output.bin": "tests/backends/tvm/device/test_device_files.py",
    "python run.py --check output.bin": "tests/backends/tvm/device/test_device_files.py",
}

NETS = f"import torch\nfrom torch import Tensor, nn\n\n\n{inspect.getsource(Residual)}\n\n"
KEYWORDS = """from torch import nn


def ds_cnn():
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""
STUDY = """models:
  - {file: model.pth, arch: own_nets.py:small, input_size: 16, calib_data: images/calib, eval_data: images/val}
recipes: [{name: minmax_w8a8, set: [images.count=12, images.batch_size=4]}]
targets: [onnx]
"""
FEATURES = """import numpy as np


def calib():
    with np.load("calib.npz") as held:
        yield from zip(held["x"], held["y"].tolist())


val = calib
"""


def commands_of(document: str) -> list[str]:
    """The commands of a document, each on one line and without comments; in `console` blocks what follows a `$`."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    found = [command for kind, block in blocks if kind in ("console", "bash", "sh", "shell") for command in re.findall(
        r"^\w*\$ +((?:.*\\\n)*.*)$" if kind == "console" else r"^((?:.*\\\n)*.+)$", block, re.MULTILINE)]
    return [" ".join(re.sub(r"\s+#\s.*", "", command.replace("\\\n", " ")).split()) for command in found]


COMMANDS = {document: found for document in DOCUMENTS if (found := commands_of(document))}


def small(command: str) -> str:
    """The command with its stand-ins and few steps."""
    added = [more for pattern, more in QUICK.items() if command.startswith("isobit") and re.search(pattern, command)]
    for pattern, instead in SMALLER:
        command = re.sub(pattern, instead, command)
    build, mark, file = command.partition(" > ")
    return " ".join([build, *added]) + mark + file


def lacking(command: str) -> list[str]:
    """What the command needs and this machine has not."""
    needed = [name for text, names in NEEDS.items() if text in command for name in names]
    return [name for name in needed if shutil.which(name) is None and importlib.util.find_spec(name) is None]


def pictures(folder: Path, seed: int) -> None:
    """A folder of images, five classes of three."""
    noise = np.random.default_rng(seed)
    for index in range(15):
        place = folder / f"class{index % 5}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place / f"{index}.png")


def boxes(folder: Path, name: str) -> None:
    """Pictures with a box each, and their COCO file."""
    (folder / name).mkdir()
    images = [{"id": index, "file_name": f"{index}.png", "width": 32, "height": 32} for index in range(12)]
    for image in images:
        noise = np.random.default_rng(image["id"]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name / image["file_name"])
    content = {
        "images": images, "categories": [{"id": index, "name": f"class{index}"} for index in range(3)],
        "annotations": [{"id": i, "image_id": i, "category_id": i % 3, "bbox": [4, 4, 16, 16], "area": 256,
                         "iscrowd": 0} for i in range(12)],
    }
    (folder / f"{name}.json").write_text(json.dumps(content))


def detector(path: Path) -> None:
    """Maps of logits [N, 3, 8, 8] and distances [N, 4, 8, 8] of a picture [N, 3, 32, 32]."""
    noise = np.random.default_rng(0)
    shapes = {"w": (8, 3, 4, 4), "class": (3, 8, 1, 1), "side": (4, 8, 1, 1)}
    weights = [helper.make_tensor(name, 1, shape, noise.standard_normal(shape).astype(np.float32).ravel() * 0.3)
               for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["cells"], strides=[4, 4]),
        helper.make_node("Relu", ["cells"], ["kept"]),
        helper.make_node("Conv", ["kept", "class"], ["logits"]), helper.make_node("Conv", ["kept", "side"], ["sides"]),
        helper.make_node("Relu", ["sides"], ["reach"]),
    ]
    inputs = [helper.make_tensor_value_info("image", 1, ["n", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info(name, 1, ["n", count, 8, 8])
               for name, count in (("logits", 3), ("reach", 4))]
    graph = helper.make_graph(nodes, "detector", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What a user of the documents has: networks, weights, pictures, arrays, boxes."""
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    for name in ("model", "resnet18", "efficientnet_lite0"):
        torch.save(Residual().state_dict(), folder / f"{name}.pth")
    (folder / "own_nets.py").write_text(f"{NETS}small = Residual\n")
    (folder / "efficientnet_lite.py").write_text(f"{NETS}efficientnet_lite0 = Residual\n")
    (folder / "ds_cnn.py").write_text(KEYWORDS)
    space: dict = {}
    exec(KEYWORDS, space)
    torch.save(space["ds_cnn"]().state_dict(), folder / "ds_cnn_kws.pth")
    noise = np.random.default_rng(0)
    for name in ("calib", "val"):
        features = noise.standard_normal((15, 1, 49, 10)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=features, y=np.arange(15) % 5)
        pictures(folder / "images" / name, len(name))
    (folder / "imagenet").mkdir()
    for name, copy in (("train", "calib"), ("val", "val")):
        shutil.copytree(folder / "images" / copy, folder / "imagenet" / name)
        boxes(folder, name)
    (folder / "classes.txt").write_text("".join(f"class{index}\n" for index in range(5)))
    (folder / "features.py").write_text(FEATURES)
    (folder / "study.yaml").write_text(STUDY)
    text = (ROOT / "docs/how-to/detector.md").read_text(encoding="utf-8")
    (folder / "own.py").write_text(text.split("```python\n")[1].split("```")[0])
    detector(folder / "detector.onnx")
    return folder


def call(command: str) -> str:
    """Run one command in the current folder; returns what it printed."""
    words = shlex.split(command)
    if words[0] != "isobit":
        path = f"{Path(sys.executable).parent}:{'/usr/local/bin:/usr/bin:/bin'}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                              env={"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout
    words, _, file = (words[:words.index(">")], ">", words[-1]) if ">" in words else (words, "", "")
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{command}\n{done.stdout}{done.stderr}{done.exception!r}"
    if file:
        Path(file).write_text(done.stdout)
    return done.stdout


@pytest.mark.slow
@pytest.mark.onnxruntime
@pytest.mark.parametrize("document", COMMANDS)
def test_the_commands_of_a_document_run(document, given, tmp_path, monkeypatch):
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that a command starts
    left = []
    for command in COMMANDS[document]:
        if command in NOT_RUN:
            continue
        if missing := lacking(command):
            left.append(f"{command.split()[0]}: {', '.join(missing)}")
            continue
        program = command.split()[0]
        assert program in PROGRAMS, f"{command}: add it to NOT_RUN with a reason, or {program} to PROGRAMS"
        for text, made in BEFORE.items():
            if command.startswith(text):
                call(made)
        if program == "cd":
            monkeypatch.chdir(command.split()[1])
        else:
            call(small(command))
    if left:
        pytest.skip(f"the others ran, these need what is missing here: {'; '.join(left)}")


@pytest.mark.slow
@pytest.mark.onnxruntime
def test_the_example_in_python_runs(given, tmp_path, monkeypatch, capsys):
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    np.savez("calib.npz", x=np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32))
    code = (ROOT / "docs/python.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    for text, instead in (
        ('arch="resnet18"', 'arch="own_nets.py:small"'), ("batch_size=32", "batch_size=4"),
        ('"isobit_w4a8"', '"isobit_w4a8", ["method.steps=2", "finish.steps=2", *small]'),
    ):
        assert text in code
        code = code.replace(text, instead)
    exec(code, {"small": ["images.count=12", "images.batch_size=4"]})
    assert capsys.readouterr().out.startswith("True {") and (tmp_path / "artifacts/net/run.py").is_file()


def test_reasons_belong_to_commands_and_name_tests_that_are_there():
    shown = {command for commands in COMMANDS.values() for command in commands}
    assert set(NOT_RUN) <= shown
    for reason in NOT_RUN.values():
        for path in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / path).is_file(), path
    assert all(any(text in command for command in shown) for text in [*NEEDS, *BEFORE])


def test_a_command_that_nobody_listed_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "COMMANDS", {"new.md": ["firefox page.html"]})
    with pytest.raises(AssertionError, match="firefox page.html: add it to NOT_RUN"):
        test_the_commands_of_a_document_run("new.md", tmp_path, tmp_path / "other", monkeypatch)
