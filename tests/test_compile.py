"""The command from end to end on a tiny network: what is built, what is refused in which words, what is left behind.

The mutation tests at the end prove that the gate can fail: a single wrong number in the file must be found.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import compile as story
from backends.base import BACKENDS
from pipeline import data
from pipeline.errors import InputError, RecipeError
from pipeline.inputs import InputShape
from pipeline.recipe import load_recipe
from tests import tiny

ROOT = Path(story.__file__).parent
ARCH = f"{ROOT / 'tests' / 'tiny.py'}:Residual"
CLASSES, SAMPLES = 5, 12
SMALL = ("--set", "images.batch_size=4", "--set", "images.count=12")
FAST = ("--recipe", "minmax_w8a8", *SMALL)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}  # of real processes
LEARN = ("--recipe", "qdrop_w4a4", *SMALL, "--set", "method.steps=400")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """model.pth (a state_dict), calib.npz, val.npz and pixels/ (a folder of images), a few samples each; many.npz."""
    folder = tmp_path_factory.mktemp("given")
    model, images = tiny.model_and_images(samples=SAMPLES)
    torch.save(model.state_dict(), folder / "model.pth")
    labels = np.arange(SAMPLES) % CLASSES
    np.savez(folder / "calib.npz", x=images.numpy(), y=labels)
    np.savez(folder / "val.npz", x=images.numpy(), y=labels)
    _, many = tiny.model_and_images(seed=1, samples=400)
    np.savez(folder / "many.npz", x=many.numpy(), y=np.arange(400) % CLASSES)
    for index in range(CLASSES):
        place = folder / "pixels" / f"class{index}"
        place.mkdir(parents=True)
        noise = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / "image.png")
    return folder


@pytest.fixture
def command(files, tmp_path, monkeypatch):
    """Runs the command in an empty folder; arguments given twice: the later ones win."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=None, arch=ARCH, calib="calib.npz", evaluation="val.npz", out="out", recipe=FAST):
        given = [str(model or files / "model.pth"), *recipe]
        for option, value in (("--arch", arch), ("--calib-data", calib and files / calib),
                              ("--eval-data", evaluation and files / evaluation), ("--out", out)):
            given += [option, str(value)] if value else []
        return CliRunner().invoke(story.app, [*given, *map(str, arguments)])

    return run


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(result, *texts, code=2):
    """The exit code, every text in the message, no traceback, nothing at --out."""
    assert result.exit_code == code, result.stderr + result.stdout + repr(result.exception)
    for text in texts:
        assert text in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert not [name for name in left_behind(Path.cwd()) if name.startswith((".out", "out"))]
    return result.stderr


# --- what is built ---


def test_a_build_says_what_it_did_and_leaves_one_complete_folder(command, tmp_path):
    result = command()
    assert result.exit_code == 0, result.stderr
    assert left_behind(tmp_path) == ["out"]
    names = {"model.onnx", "manifest.json", "parity.json", "golden.npz", "run.py", "report.md", "timings.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert result.stdout.startswith("PARITY PASSED: all ")
    for text in ("float ", "calibrated ", "reference ", "artifact ", "0 of ", " integer, 0 float",
                 "bytes in model.onnx", "python out/run.py", "weight codes keep to +-64"):
        assert text in result.stdout, result.stdout
    assert "capture and place" in result.stderr and "compared 12 of 12 samples" in result.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.stdout + result.stderr)
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["codes"]["differing"] == 0 and parity["gate"]["passed"]
    assert set(parity["accuracy"]) == {"float", "calibrated", "reference", "artifact"}
    assert subprocess.run([sys.executable, "out/run.py"], capture_output=True, text=True).returncode == 0


def test_json_is_one_object_on_stdout_and_the_same_command_again_gives_the_same_bytes(command, tmp_path):
    summaries = [json.loads(command("--json", out=out).stdout) for out in ("one", "two")]
    assert [summary["passed"] for summary in summaries] == [True, True]
    assert summaries[0]["codes"]["compared"] > 0 and summaries[0]["exit_code"] == 0
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the timings."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "timings.json"}


@pytest.mark.parametrize(("target", "settings", "calib"), [
    ("onnx", ("--recipe", "qdrop_w4a4", *SMALL, "--set", "method.steps=5"), "calib.npz"),
    ("reference", ("--recipe", "qdrop_w4a4", *SMALL, "--set", "weights.bits={average: 3}", "--set", "method.steps=5"),
     "calib.npz"),
    ("onnx", ("--recipe", "zeroq_w8a8", "--set", "images.count=8", "--set", "images.batch=4", "--set",
              "images.iterations=5", "--set", "images.batch_size=4"), None),
    ("c", FAST, "calib.npz"),
])
def test_equal_builds_are_equal_in_every_byte_but_the_timings(command, files, tmp_path, target, settings, calib):
    """Other folders, names and processes, another time of the day; learning, allocation and pictures included."""
    if target == "c" and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("there is no C compiler")
    result = command("--target", target, out="one", recipe=settings, calib=calib)
    assert result.exit_code == 0, result.stderr + result.stdout
    given = ["--calib-data", str(files / calib)] if calib else []
    other = subprocess.run(
        [sys.executable, str(ROOT / "compile.py"), str(files / "model.pth"), "--arch", ARCH, *settings, *given,
         "--eval-data", str(files / "val.npz"), "--target", target, "--out", "deep/other"],
        cwd=tmp_path, env={**ENVIRONMENT, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=False,
    )
    assert other.returncode == 0, other.stderr
    found = []
    for out in ("one", "deep/other"):
        found.append(contents(tmp_path / out))
        timings = json.loads((tmp_path / out / "timings.json").read_text())
        assert timings["stages"]["calibrate"] > 0 and timings["expected"]["cpu_seconds"] >= 0
    assert sorted(found[0]) == sorted(found[1])
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []
    for path in (tmp_path, ROOT):
        assert [name for name, content in found[0].items() if str(path).encode() in content] == []
    assert "timings.json" not in json.loads(found[0]["manifest.json"])["files"]


def test_without_evaluation_data_parity_is_proven_on_the_calibration_images_and_that_is_said(command, tmp_path):
    result = command("--target", "reference", evaluation=None, recipe=("--recipe", "mse_w8a8", *SMALL))
    assert result.exit_code == 0, result.stderr
    assert "no evaluation data: parity is proven on the calibration images" in result.stdout
    assert set(json.loads((tmp_path / "out" / "parity.json").read_text())["accuracy"].values()) == {None}
    assert "no evaluation data" in (tmp_path / "out" / "report.md").read_text()


def test_default_folder_and_images_from_a_folder(command, tmp_path):
    settings = ("--recipe", "minmax_w8a8", "--set", "images.batch_size=4", "--set", "images.count=5")
    numbers = ("--mean", "0.5", "0.5", "0.5", "--std", "0.2,0.2,0.2", "--seed", "7", "--target", "reference")
    result = command(*numbers, calib="pixels", evaluation="pixels", out=None, recipe=settings)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "artifacts" / "model-minmax_w8a8-reference" / "manifest.json").read_text())
    assert manifest["seed"] == 7 and manifest["calibration"]["count"] == 5


@pytest.fixture
def imagenet(tmp_path):
    """The standard folder in small: train/ and val/ with a folder a class, JPEG images of different sizes."""
    wnids = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
    for part, count in (("train", 4), ("val", 2)):
        for label, wnid in enumerate(wnids):
            place = tmp_path / "imagenet" / part / wnid
            place.mkdir(parents=True)
            for index in range(count):
                size = (12 + 3 * index, 11 + label, 3)
                noise = np.random.default_rng(10 * label + index).integers(0, 256, size, dtype=np.uint8)
                Image.fromarray(noise).save(place / f"{wnid}_{index}.JPEG")
    return tmp_path / "imagenet"


IMAGENET = ("--input-size", "8", "--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")


@pytest.mark.parametrize("source", ["files", "captq-random", "captq-smooth"])
def test_imagenets_folder_with_the_papers_augmentation(command, imagenet, tmp_path, source):
    hashes, chosen = {}, ("--set", f"images.source={source}", "--set", "images.count=8", "--seed", "3")
    for augment in ("eval", "train"):
        result = command(
            *IMAGENET, *chosen, "--set", f"images.augment={augment}", "--target", "reference",
            calib=imagenet / "train", evaluation=imagenet / "val", out=augment,
        )
        assert result.exit_code == 0, result.stderr
        manifest = json.loads((tmp_path / augment / "manifest.json").read_text())
        assert manifest["calibration"]["kind"] == source and manifest["calibration"]["count"] == 8
        assert f"augment: {augment}" in manifest["recipe"]["text"]
        hashes[augment] = manifest["calibration"]["sha256"]
        with np.load(tmp_path / augment / "golden.npz") as golden:
            hashes[f"evaluation {augment}"] = golden["input"].tobytes()
    assert hashes["eval"] != hashes["train"] and hashes["evaluation eval"] == hashes["evaluation train"]


def test_a_source_that_needs_labels_is_refused_without_them(command, files, tmp_path):
    with np.load(files / "calib.npz") as given:
        np.save(tmp_path / "x.npy", given["x"])
    error = refused(command("--set", "images.source=captq-smooth", calib=tmp_path / "x.npy"), "needs labels", "x.npy")
    assert "calibrate" not in error and "capture" not in error


def test_a_build_from_python_takes_a_module(files, tmp_path):
    from pipeline.data import open_data

    model, _ = tiny.model_and_images()
    data = open_data(files / "calib.npz", batch_size=4, purpose="calib")
    build = story.compile_model(model, load_recipe("minmax_w8a8", SMALL[1::2]), "reference", data, None, tmp_path / "a")
    assert build.passed and build.folder == tmp_path / "a" and build.manifest.model.name == "Residual"


def test_two_conditions_of_the_gate_that_are_not_codes(command, tmp_path):
    refused(command("--max-drop", "1", evaluation=None), "--max-drop", "an accuracy gate needs labels")
    result = command("--max-drop", "-100")
    assert result.exit_code == 1
    assert re.match(r"PARITY PASSED: .*\nACCURACY FAILED: top-1 .*--max-drop allows -100", result.stdout), result.stdout
    assert left_behind(tmp_path) == ["out-failed"]
    assert "look at out-failed/parity.json" in result.stdout


# --- without data ---

DISTILLED = ("images.source=distilled", "images.count=8", "images.batch=4", "images.iterations=20",
             "images.batch_size=4")


def setting(*texts):
    return tuple(part for text in texts for part in ("--set", text))


DATA_FREE = ("--recipe", "zeroq_w8a8", *setting(*DISTILLED))


@pytest.fixture
def guarded(monkeypatch):
    """Whatever reads a sample raises until calibration is over; the list of what was read afterwards."""
    calibrated, read = [], []

    def guard(of, name):
        real = getattr(of, name)

        def guarded_read(self, *arguments):
            if not calibrated:
                raise AssertionError(f"{of.__name__}.{name} before calibration was over")
            read.append(name)
            return real(self, *arguments)

        monkeypatch.setattr(of, name, guarded_read)

    for of, name in ((data.Batches, "__iter__"), (data.Batches, "materialize"), (data.Arrays, "read"),
                     (data.Images, "read"), (data.Arrays, "pixels"), (data.Images, "pixels")):
        guard(of, name)
    calibrate = story.calibrate

    def watched(*arguments, **keys):
        result = calibrate(*arguments, **keys)
        calibrated.append(True)
        return result

    monkeypatch.setattr(story, "calibrate", watched)
    return read


@pytest.mark.parametrize("evaluation", ["val.npz", "pixels"])
def test_without_data_no_sample_is_read_before_evaluation(command, guarded, tmp_path, evaluation):
    result = command(calib=None, evaluation=evaluation, recipe=DATA_FREE)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    assert "read" in guarded
    assert "make images" in result.stderr and "synthetic (distilled, 8 images)" in result.stdout
    folder = tmp_path / "out"
    report = (folder / "report.md").read_text()
    assert "Calibration: synthetic (distilled, 8 images)." in report
    assert "![synthetic images](calibration.png)" in report and "## Training: images" in report
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["calibration"]
    assert entry["synthetic"] and (entry["kind"], entry["count"]) == ("distilled", 8) and len(entry["sha256"]) == 64
    assert "calibration.png" in manifest["files"]
    with Image.open(folder / "calibration.png") as picture:
        assert picture.mode == "RGB"


def test_the_guard_of_the_test_above_is_real(command, guarded):
    result = command()
    assert result.exit_code == 3 and "before calibration was over" in result.stderr


def test_made_images_prove_parity_where_there_is_nothing_else(command):
    result = command("--json", "--input-size", "3,8,8", calib=None, evaluation=None, recipe=DATA_FREE)
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert "parity is proven on the calibration images" in summary["notes"][0]
    assert summary["calibration"]["synthetic"] and len(summary["trainings"]["images"]) == 2
    assert set(summary["trainings"]["images"][0]) == {"number", "steps", "measured", "seconds"}


def test_data_that_is_not_read_is_said_to_be_so(command, guarded):
    result = command(recipe=DATA_FREE)
    assert result.exit_code == 0, result.stderr
    assert "--calib-data is not read: the recipe's images.source is 'distilled'" in result.stderr


def test_data_free_reconstruction_is_one_recipe(command):
    result = command(calib=None, recipe=(*LEARN, *setting(*DISTILLED, "method.steps=20")))
    assert result.exit_code == 0, result.stderr
    assert "synthetic (distilled, 8 images)" in result.stdout


def test_a_generators_images(command):
    sets = setting("images.source=generated", "images.count=8", "images.batch_size=4", "images.iterations=100")
    result = command("--json", calib=None, recipe=("--recipe", "mse_w8a8", *sets))
    assert result.exit_code == 0, result.stderr
    assert any("into the class that was ordered" in note for note in json.loads(result.stdout)["notes"])


def test_what_a_source_does_not_give_is_refused(command):
    none = setting("images.source=none", "images.count=0")
    refused(command(*none, calib=None), "the method 'nearest' needs images, and the source 'none' gives none")
    refused(command(calib=None, evaluation=None, recipe=DATA_FREE), "the shape of the model's input is not known",
            "--input-size channels,height,width, or --eval-data")


def test_interrupted_images_are_not_made_again(command, monkeypatch, tmp_path):
    def stop(*arguments, **keys):
        raise KeyboardInterrupt

    assert command(calib=None, recipe=DATA_FREE, out="expected").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(story, "calibrate", stop)
        assert command(calib=None, recipe=DATA_FREE).exit_code == 130
    with monkeypatch.context() as patch:
        patch.setattr("calib.sources.distilled.Pixels", stop)
        resumed = command("--resume", calib=None, recipe=DATA_FREE)
    assert resumed.exit_code == 0, resumed.stderr
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "expected" / "model.onnx").read_bytes()


def test_images_and_a_source_that_makes_them_do_not_go_together(files, tmp_path):
    recipe = load_recipe("zeroq_w8a8", DISTILLED)
    model, _ = tiny.model_and_images()
    given = data.open_data(files / "calib.npz", batch_size=4, purpose="calib")
    with pytest.raises(RecipeError, match="makes its images and reads none"):
        story.compile_model(model, recipe, "reference", given, None, tmp_path / "a")
    build = story.compile_model(model, recipe, "reference", InputShape((3, 8, 8)), None, tmp_path / "a")
    assert build.passed and build.manifest.calibration.synthetic
    with pytest.raises(RecipeError, match="makes no images"):
        story.compile_model(model, load_recipe("mse_w8a8"), "reference", InputShape((3, 8, 8)), None, tmp_path / "b")


# --- mixed precision ---


BUDGET = ("--set", "weights.bits={average: 3, options: [2, 4, 8]}")


def test_an_emulated_artifact_is_proven_on_a_part_of_the_samples_and_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setattr(BACKENDS.get("reference"), "proof_samples", lambda folder: 5, raising=False)
    result = command("--target", "reference")
    assert result.exit_code == 0, result.output
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["samples"] == 5
    assert f"5 of {SAMPLES} samples: the artifact's processor is emulated" in " ".join(result.output.split())


def test_a_backend_may_add_files_when_the_golden_numbers_stand(command, tmp_path, monkeypatch):
    def finish(folder):
        assert (folder / "golden.npz").is_file()
        (folder / "more.txt").write_text("more")

    monkeypatch.setattr(BACKENDS.get("reference"), "finish", finish, raising=False)
    assert command("--target", "reference").exit_code == 0
    assert "more.txt" in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("learn", [("nearest_w4a4",), ("qdrop_w4a4", "--set", "method.steps=4")])
@pytest.mark.parametrize("target", ["onnx", "reference"])
def test_a_budget_of_bits_is_spent_proven_and_told(command, tmp_path, learn, target):
    result = command("--target", target, *BUDGET, recipe=("--recipe", *learn, *SMALL))
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    spent = manifest["allocation"]
    assert spent["budget"] == "3 bits on average of 2, 4, 8" and spent["average"] == 3.0
    assert sorted(spent["bits"][name] for name in ("inner", "outer")) == [2, 4]
    assert (spent["bits"]["stem"], spent["bits"]["head"]) == (8, 8)  # as the policy says
    built = {entry["module"]: entry["bits"] for entry in manifest["tensors"] if entry["kind"] == "weight"}
    assert built == spent["bits"]
    assert manifest["sizes"]["weights_packed"] == 216 + 576 * 6 // 8 + 40
    assert manifest["recipe"]["name"].endswith("_wmp3a4") and "frontier.svg" in manifest["files"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## Bits" in report and "(frontier.svg)" in report and "**chosen, 3.00 on average** | 688 |" in report
    assert "allocate bits" in result.stderr and "3.00 bits on average over 2 layers, 688 bytes" in result.stderr
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["codes"]["differing"] == 0


def test_the_recipe_in_the_manifest_states_what_was_chosen_and_builds_the_same_again(command, tmp_path):
    assert command(*BUDGET).exit_code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "chosen.yaml").write_text(manifest["recipe"]["text"])
    again = command(out="again", recipe=("--recipe", "chosen.yaml"))
    assert again.exit_code == 0, again.stderr
    assert "allocate bits" not in again.stderr
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "again" / "model.onnx").read_bytes()


def test_a_dry_run_of_a_budget_shows_the_widest_option_and_refuses_what_cannot_be_bought(command):
    result = command("--dry-run", *BUDGET, recipe=("--recipe", "nearest_w4a4", *SMALL))
    assert result.exit_code == 0, result.stderr
    assert "weight bits of 2 layers are decided from the images (3 bits on average of 2, 4, 8)" in result.stdout
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert rows["inner"][3] == "8"
    refused(command("--dry-run", "--set", "weights.bits={budget_mb: 0.0001}"), "cannot fit into 0.0001 MB")
    error = refused(command("--set", "weights.bits={budget_mb: 0.0001}"), "cannot fit into 0.0001 MB", "do:")
    assert "allocate bits" not in error


# --- the dry run ---


def test_dry_run_shows_where_every_layer_runs_and_reads_no_data(command, tmp_path):
    result = command("--dry-run", "--input-size", "3,8,8", calib="not/there", recipe=("--recipe", "qdrop_w4a4"))
    assert result.exit_code == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "conv2d+relu" in rows["stem"] and "integers" in rows["stem"]
    assert "4 asym" in rows["inner"] and "4 unsigned" in rows["inner"]
    assert "W4A8 is as small and as fast as W4A4" in result.stdout
    assert "expected: about" in result.stdout and "not measured, assumed" in result.stdout
    assert "images at once in calibration" in " ".join(result.stdout.split())
    assert left_behind(tmp_path) == []


def test_dry_run_looks_at_one_header_where_nothing_else_tells_the_shape(command):
    summary = json.loads(command("--dry-run", "--json").stdout)
    assert summary["expected"]["cpu_seconds"] >= 0 and "not measured" in summary["expected"]["gpu"]
    assert summary["input_shape"] == [3, 8, 8] and summary["classes"] == CLASSES
    assert {row["runs"] for row in summary["placement"]} >= {"integer"}
    refused(command("--dry-run", calib=None), "the shape of the model's input is not known", "--input-size")


def test_dry_run_refuses_what_a_build_would_refuse(command):
    asymmetric = ("--set", "weights.symmetric=false")
    refused(command("--dry-run", *asymmetric), "annotate:", "stem", "symmetric", "allowed:", "do:")


# --- bad input: model ---


def test_model_files_that_cannot_be_read(command, files, tmp_path):
    refused(command(model=files / "modle.pth"), "does not exist", "Did you mean 'model.pth'?")
    broken = tmp_path / "broken.pth"
    broken.write_bytes((files / "model.pth").read_bytes()[:900])
    refused(command(model=broken), "truncated, corrupt", str(broken), "Save or copy it again")
    model, _ = tiny.model_and_images()
    torch.save(model, tmp_path / "module.pth")
    refused(command(model=tmp_path / "module.pth"), "can run any code", "--trust-pickle")
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    torch.save(model.state_dict(), tmp_path / "nan.pth")
    refused(command(model=tmp_path / "nan.pth"), "'head.weight' has 1 of 40 values that are NaN")


def test_networks_that_do_not_fit_or_do_not_import(command, tmp_path):
    refused(command(arch="resnet18"), "do not fit the network 'resnet18'", "missing in the file: conv1.weight")
    refused(command(arch="resnet81"), "no classification model 'resnet81'", "Did you mean 'resnet18'?")
    refused(command(arch=None), "does not say which network", "--arch")
    (tmp_path / "arch.py").write_text("import nothing_like_this\n")
    refused(command(arch=f"{tmp_path}/arch.py:net"), "does not import", "nothing_like_this", "arch.py:1")


def test_a_branch_on_data_is_named_by_its_line(command, tmp_path):
    (tmp_path / "branch.py").write_text(
        "from tests import tiny\n\nclass Branch(tiny.Residual):\n    def forward(self, x):\n"
        "        if x.sum() > 0:\n            return super().forward(x)\n        return super().forward(-x)\n"
    )
    text = refused(command(arch=f"{tmp_path}/branch.py:Branch"), "branches on the values of a tensor", "branch.py:5")
    assert "if x.sum() > 0" in text


# --- bad input: data ---


def arrays(folder: Path, **changed) -> Path:
    _, images = tiny.model_and_images(samples=SAMPLES)
    np.savez(folder / "data.npz", **{"x": images.numpy(), "y": np.arange(SAMPLES) % CLASSES, **changed})
    return folder / "data.npz"


def test_calibration_data_is_missing_or_empty(command, tmp_path):
    refused(command(calib=None), "the method 'nearest' needs images", "'files' draws from data", "--calib-data")
    refused(command(calib=tmp_path / "gone"), "does not exist", "gone")
    (tmp_path / "empty").mkdir()
    refused(command(calib=tmp_path / "empty"), "holds no images", "empty")


def test_samples_that_do_not_fit(command, tmp_path):
    wide = np.zeros((SAMPLES, 3, 8, 9), np.float32)
    refused(command(evaluation=arrays(tmp_path, x=wide)), "[3, 8, 9]", "[3, 8, 8]", "data.npz")
    grey = np.zeros((SAMPLES, 1, 8, 8), np.float32)
    refused(command(calib=arrays(tmp_path, x=grey)), "1 channels")
    refused(command("--input-size", "3,16,16"), "[3, 8, 8]", "[3, 16, 16]")
    spoiled = np.zeros((SAMPLES, 3, 8, 8), np.float32)
    spoiled[4, 1, 2, 3] = np.nan
    refused(command(calib=arrays(tmp_path, x=spoiled)), "NaN", "sample 4")
    far = np.full(SAMPLES, CLASSES)
    refused(command(evaluation=arrays(tmp_path, y=far)), "the label 5 is outside", "0 to 4")


def test_an_image_that_cannot_be_read_is_named(command, files, tmp_path):
    for path in (files / "pixels").rglob("*.png"):
        copy = tmp_path / "images" / path.parent.name / path.name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    copy.write_bytes(path.read_bytes()[:20])
    refused(command(calib=tmp_path / "images"), "the image cannot be read", str(copy))
    Image.new("RGB", (9, 8)).save(copy)
    refused(command(calib=tmp_path / "images"), "different sizes", "--input-size")


def test_a_link_into_its_own_folder_is_left_out_and_the_terminal_says_so(command, files, tmp_path):
    shutil.copytree(files / "pixels", tmp_path / "images")
    (tmp_path / "images" / "class0" / "loop").symlink_to(tmp_path / "images")
    settings = ("--recipe", "minmax_w8a8", "--set", "images.batch_size=4", "--target", "reference")
    result = command(calib=tmp_path / "images", evaluation=tmp_path / "images", recipe=settings)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("note: 1 link(s) in") == 1
    assert "'class0/loop' leads into the folder itself" in result.stderr
    shutil.rmtree(tmp_path / "out")
    os.mkfifo(tmp_path / "images" / "class1" / "x.png")
    refused(command(calib=tmp_path / "images"), "not a regular file", "class1/x.png")


# --- bad input: options ---


@pytest.mark.parametrize(("arguments", "texts"), [
    (("--recipe", "qdrop_w4a44"), ("there is no recipe 'qdrop_w4a44'", "Did you mean 'qdrop_w4a4'?")),
    (("--target", "onxx"), ("there is no target 'onxx'", "Did you mean 'onnx'?")),
    (("--set", "wieghts.bits=4"), ("unknown key 'wieghts'", "Did you mean 'weights'?")),
    (("--set", "weights.bits=9"), ("'weights.bits' is 9", "from 2 to 8")),
    (("--set", "activations.bits=1"), ("'activations.bits' is 1", "from 2 to 8")),
    (("--set", "method.init_image=4"), ("no parameter 'init_image'", "Did you mean 'init_images'?")),
    (("--set", "method.name=qdorp"), ("there is no method 'qdorp'", "Did you mean 'qdrop'?")),
    (("--set", "images.source=captq"), ("no source of images 'captq'", "captq-smooth, distilled, files",
     "Did you mean 'captq-")),
    (("--set", "images.batchsize=4"), ("no parameter 'batchsize'", "Did you mean 'batch_size'?")),
    (("--set", "images.augment=train"), ("prepared already", "calib.npz", "augment: eval")),
    (("--set", "images.source=captq-random", "--set", "images.count=4"), ("4 images cannot cover the 5 classes",)),
    (("--device", "cuda:9"), ("CUDA", "--device cuda:9", "auto, cpu")),
    (("--device", "gpu0"), ("there is no device 'gpu0'", "auto, cpu, cuda")),
    (("--device-profile", "arm"), ("no device profile 'arm'", "generic, vnni, arm64")),
    (("--mean", "0.5", "0.5"), ()),
    (("--recipie", "qdrop_w4a4"), ("--recipie", "--recipe")),
    (("--seed", "-1"), ("--seed",)),
    (("--input-size", "big"), ("'big' is not a size", "3,224,224")),
    (("--set", "weights.symmetric=false"), ("stem", "symmetric")),
])
def test_options_that_cannot_be_honoured(command, arguments, texts):
    if arguments[0] == "--mean":
        refused(command(*arguments, calib="pixels"), "2 numbers for images of 3 channel(s)")
        return
    refused(command(*arguments), *texts)


def test_an_output_folder_that_exists_is_kept_unless_told_otherwise(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for arguments, text in (((), "--overwrite to replace"), (("--overwrite",), "is not an artifact")):
        result = command(*arguments)
        assert result.exit_code == 2 and text in result.stderr
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_hold_the_folder_is_refused_before_work(command, tmp_path):
    (tmp_path / "file").write_text("")
    result = command(out="file/out")
    assert result.exit_code == 2 and "a file is in its way" in result.stderr
    assert "calibrate" not in result.stderr


def test_errors_are_json_as_well(command):
    result = command("--json", "--recipe", "nothing")
    summary = json.loads(result.stdout)
    assert result.exit_code == summary["exit_code"] == 2
    assert summary["error"]["stage"] == "recipe" and "there is no recipe" in summary["error"]["what"]


NOISY = """
import atexit, ctypes, os, subprocess, sys
from tests import tiny

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


@pytest.mark.parametrize(("factory", "code"), [("Net", 0), ("end", 2), ("missing", 2)])
def test_json_is_alone_on_stdout_whatever_the_network_prints(files, tmp_path, factory, code):
    (tmp_path / "noisy.py").write_text(NOISY)
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


# --- bad luck ---


def test_a_full_disk_leaves_nothing(command, monkeypatch):
    def emit(reference, folder):
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BACKENDS.get("onnx"), "emit", emit)
    refused(command(), "the disk is full", "Make room")


def test_a_defect_is_one_line_and_a_traceback_on_request(command, monkeypatch):
    def capture(*arguments, **settings):
        raise ZeroDivisionError("seven")

    monkeypatch.setattr(story, "capture", capture)
    refused(command(), "internal error: ZeroDivisionError: seven", "--debug shows the traceback", code=3)
    assert "Traceback" in command("--debug").stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupted_calibration_resumes_to_the_same_bytes(command, files, tmp_path):
    """A real process, stopped by Ctrl-C after its first unit."""
    arguments = [sys.executable, str(ROOT / "compile.py"), str(files / "model.pth"), "--arch", ARCH, *LEARN,
                 "--calib-data", str(files / "calib.npz"), "--eval-data", str(files / "val.npz"), "--out", "out"]
    # A suite that runs in the background of a shell inherits SIGINT ignored, and so would the process.
    process = subprocess.Popen(arguments, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(r" 1/\d+ ", line):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(seen) + stderr
    assert "stopped in 'calibrate'" in stderr and "--resume goes on there" in stderr and "Traceback" not in stderr
    assert not stdout and left_behind(tmp_path) == [".checkpoints"]

    resumed = command("--resume", recipe=LEARN)
    assert resumed.exit_code == 0, resumed.stderr
    assert left_behind(tmp_path) == ["out"]
    assert command(out="whole", recipe=LEARN).exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_run_is_refused_at_once_and_a_killed_one_leaves_nothing_that_stays(command, files, tmp_path):
    arguments = [sys.executable, str(ROOT / "compile.py"), str(files / "model.pth"), "--arch", ARCH, *LEARN,
                 "--set", "method.steps=100000", "--calib-data", str(files / "calib.npz"), "--out", "out"]
    first = subprocess.Popen(arguments, cwd=tmp_path, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE)
    try:
        assert any("calibrate" in line for line in first.stderr)
        result = command(recipe=LEARN)
        assert result.exit_code == 2 and "load" not in result.stderr, result.stderr
        assert f"another run is writing there: process {first.pid}" in result.stderr
        given = data.open_data(files / "calib.npz", batch_size=4, purpose="calib")
        for out, checkpoints in (("out", None), ("out-failed", None), ("other", Path(".checkpoints/out"))):
            with pytest.raises(InputError, match=f"process {first.pid}"):
                story.compile_model(tiny.model_and_images()[0], load_recipe("minmax_w8a8"), "reference", given, None,
                                    Path(out), story.Options(checkpoints=checkpoints))
        assert command("--dry-run").exit_code == 0
    finally:
        first.kill()
        first.communicate()
    (tmp_path / ".out-0123abc_.partial").mkdir()  # as if it had come to its emission
    assert command().exit_code == 0
    assert left_behind(tmp_path) == ["out"]


# --- the gate can fail ---


def flip_weight_code(graph):
    """One code of the first convolution, its second highest bit."""
    tensor = next(t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    codes = numpy_helper.to_array(tensor).copy()
    codes.flat[0] ^= 0x40
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))


def shift_zero_point(graph):
    """Of one QuantizeLinear; the DequantizeLinear behind it keeps its own."""
    node = [node for node in graph.node if node.op_type == "QuantizeLinear"][1]
    old = next(t for t in graph.initializer if t.name == node.input[2])
    value = numpy_helper.to_array(old)
    graph.initializer.append(numpy_helper.from_array(np.asarray(value + 1, value.dtype), "shifted"))
    node.input[2] = "shifted"


def drop_clip(graph):
    """Of one tensor below 8 bits; what was clipped keeps its name."""
    clip = next(node for node in graph.node if node.op_type == "Clip")
    producer = next(node for node in graph.node if clip.input[0] in node.output)
    producer.output[0] = clip.output[0]
    graph.node.remove(clip)


def add_one_to_bias(graph):
    """To the first element of the first int32 bias."""
    dequantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    tensor = next(t for t in graph.initializer if t.data_type == onnx.TensorProto.INT32 and t.name in dequantized)
    codes = numpy_helper.to_array(tensor).copy()
    codes[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))


NEAREST_W4A4 = ("--recipe", "qdrop_w4a4", *SMALL, "--set", "method={name: nearest}")


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("mutate", "recipe"), [
    (flip_weight_code, FAST), (shift_zero_point, FAST), (drop_clip, NEAREST_W4A4), (add_one_to_bias, FAST),
], ids=lambda value: getattr(value, "__name__", None))
def test_one_wrong_number_in_the_file_fails_the_build(command, monkeypatch, tmp_path, mutate, recipe):
    backend = BACKENDS.get("onnx")
    emit = backend.emit

    def emit_wrong(reference, folder):
        written = emit(reference, folder)
        model = onnx.load(folder / backend.model_file)
        before = model.SerializeToString()
        mutate(model.graph)
        assert model.SerializeToString() != before
        onnx.save(model, folder / backend.model_file)
        return written

    monkeypatch.setattr(backend, "emit", emit_wrong)
    result = command(recipe=recipe, evaluation="many.npz")
    assert result.exit_code == 1, result.stdout + result.stderr
    assert re.match(r"PARITY FAILED: ([1-9][\d,]* of [\d,]+ integer codes differ|no code or logit)", result.stdout)
    assert left_behind(tmp_path) == ["out-failed"]
    parity = json.loads((tmp_path / "out-failed" / "parity.json").read_text())
    assert not parity["gate"]["passed"]
    assert parity["first_divergence"] is not None or parity["logits_differing"]


def test_the_gate_is_what_makes_the_difference(command, tmp_path):
    """The recipe of the dropped Clip passes as it is."""
    result = command(recipe=NEAREST_W4A4, evaluation="many.npz")
    assert result.exit_code == 0, result.stdout + result.stderr
    assert zipfile.is_zipfile(tmp_path / "out" / "golden.npz")


def test_a_budget_without_an_image_to_decide_it_is_refused():
    recipe = load_recipe("gdfq_w4a4", ["weights.bits={average: 3}"])
    with pytest.raises(RecipeError, match="the source 'none' gives none"):
        story.check_recipe(recipe)


# --- what an exact artifact is worth ---


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """model.pth, and samples whose labels are what the model says of them: it is right by definition."""
    folder = tmp_path_factory.mktemp("labelled")
    model, _ = tiny.model_and_images()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 3, 8, 8, generator=generator) + 2 * torch.randn(300, 3, 1, 1, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    torch.save(model.state_dict(), folder / "model.pth")
    named = {
        "calib": (x[:50], y[:50]), "val": (x, y), "shuffled": (x, y[torch.randperm(300, generator=generator)]),
        "same": (x[:1].repeat(50, 1, 1, 1), y[:50]), "black": (torch.zeros(50, 3, 8, 8), y[:50]),
        "pixels": (255 * torch.rand(50, 3, 8, 8, generator=generator), y[:50]),
    }
    for name, (images, labels) in named.items():
        np.savez(folder / f"{name}.npz", x=images.numpy(), y=labels.numpy())
    np.savez(folder / "unlabelled.npz", x=x.numpy())
    return folder


@pytest.mark.parametrize(
    ("calib", "evaluation", "words"),
    [
        ("calib", "val", ""),
        ("black", "val", "of 50 calibration samples all are one and the same sample"),
        ("same", "val", "of 50 calibration samples all are one and the same sample"),
        ("pixels", "val", "calibration inputs run from"),
        ("pixels", "unlabelled", "scaled or normalised otherwise"),
        ("calib", "shuffled", "the float network itself is at or near chance level"),
    ],
)
def test_data_that_makes_an_artifact_worthless_is_a_warning_with_its_cause_in_every_place(
    command, labelled, tmp_path, calib, evaluation, words
):
    result = command("--target", "reference", model=labelled / "model.pth", calib=labelled / f"{calib}.npz",
                     evaluation=labelled / f"{evaluation}.npz", recipe=("--recipe", "minmax_w8a8"))
    assert result.exit_code == 0, result.stderr
    status = "WARNING" if words else "OK"
    assert re.match(rf"PARITY PASSED: .*\nACCURACY {status}: ", result.stdout), result.stdout
    report = (tmp_path / "out" / "report.md").read_text()
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    headline = result.stdout.splitlines()[1].removeprefix(f"ACCURACY {status}: ")
    assert parity["verdicts"]["accuracy"]["text"] == headline and f"**ACCURACY {status}:** {headline}" in report
    for text in (result.stdout, report):
        assert words in text and "the method" not in text.split("\n## ")[0]


def test_a_loss_is_a_warning_and_max_drop_makes_it_a_gate(command, labelled, tmp_path):
    given = {"model": labelled / "model.pth", "calib": labelled / "calib.npz", "evaluation": labelled / "val.npz",
             "recipe": ("--recipe", "minmax_w8a8", "--set", "weights.bits=2", "--set", "activations.bits=2")}
    result = command("--target", "reference", **given)
    assert result.exit_code == 0 and "ACCURACY WARNING" in result.stdout and "few bits" in result.stdout
    result = command("--target", "reference", "--max-drop", "5", out="gated", **given)
    assert result.exit_code == 1 and "ACCURACY FAILED" in result.stdout and "PARITY PASSED" in result.stdout


class Positions(nn.Module):
    """Maps of classes: one choice at every position."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, classes, 1)

    def forward(self, x):
        return self.last(torch.relu(self.conv(x)))


@pytest.mark.parametrize(("classes", "kind"), [(4, "maps"), (1, "values")])
def test_maps_and_values_have_no_accuracy_and_no_share_above_a_hundred(labelled, tmp_path, classes, kind):
    torch.manual_seed(0)
    calib, val = (data.open_data(labelled / f"{name}.npz", batch_size=20, purpose=purpose)
                  for name, purpose in (("calib", "calib"), ("val", "eval")))
    recipe = load_recipe("minmax_w8a8")
    build = story.compile_model(Positions(classes).eval(), recipe, "reference", calib, val, tmp_path / "a")
    found = build.parity.to_json()
    assert found["outputs"] == kind and set(found["accuracy"].values()) == {None}
    assert found["verdicts"]["accuracy"]["status"] == "ok" and "not compared" in found["verdicts"]["accuracy"]["text"]
    shares = [found["top1_agreement"], *found["top1_agreement_with_artifact"].values()]
    assert all(share is None for share in shares) if kind == "values" else all(80 < share <= 100 for share in shares)
    assert 20 < found["signal_to_noise_db"]["artifact"] < 80
    with pytest.raises(InputError, match="accuracy gate"):
        story.compile_model(Positions(classes).eval(), recipe, "reference", calib, val, tmp_path / "b",
                            story.Options(max_drop=1.0))


class Shifting(tiny.Residual):
    """Writes to the tensor that it is given."""

    def forward(self, x):
        x -= 0.5
        x *= 2.0
        return super().forward(x)


def test_every_stage_of_a_network_that_writes_to_its_input_sees_fresh_samples(labelled, tmp_path):
    given, _ = tiny.model_and_images()
    model = Shifting()
    model.load_state_dict(given.state_dict())
    calib = data.open_data(labelled / "calib.npz", batch_size=20, purpose="calib")
    x = torch.from_numpy(np.load(labelled / "val.npz")["x"])
    with torch.no_grad():
        y = given(2 * (x - 0.5)).argmax(1)
    val = data.array_batches(x, y, 50, "eval", "fresh")
    build = story.compile_model(model.eval(), load_recipe("minmax_w8a8"), "reference", calib, val, tmp_path / "a")
    assert build.parity.accuracy["float"] == 100.0 and build.parity.accuracy["artifact"] > 90
