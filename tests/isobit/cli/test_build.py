"""The command from end to end on a tiny network: what is built, what it says, what it leaves behind."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.pipeline.errors import InputError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples import data
from tests.examples import tiny
from tests.isobit.commands import ARCH, CLASSES, ENVIRONMENT, FAST, LEARN, ROOT, SMALL, contents, left_after, refused

# --- what is built ---


def test_a_build_says_what_it_did_and_leaves_one_complete_folder(command, tmp_path):
    result = command()
    assert result.exit_code == 0, result.stderr
    assert left_after(tmp_path) == ["out"]
    names = {"model.onnx", "manifest.json", "parity.json", "golden.npz", "run.py", "report.md", "timings.json",
             "facts.json", "report.html", "probe.npz", "certificate.json"}
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


def test_speed_is_said_only_where_this_machine_can_say_it(command, tmp_path, monkeypatch):
    assert "time over float" in command().stdout
    monkeypatch.setattr(type(BACKENDS.get("onnx")), "untimed", lambda self, profile: f"{profile} is elsewhere")
    said = command("--overwrite")
    assert said.exit_code == 0 and "time over float" not in said.stdout
    assert "speed was not measured: generic is elsewhere" in said.stdout + said.stderr
    assert json.loads((tmp_path / "out" / "timings.json").read_text()).get("latency") is None
    assert "run.py --bench</code> in the artifact" in (tmp_path / "out" / "report.html").read_text()


def test_json_is_one_object_on_stdout_and_the_same_command_again_gives_the_same_bytes(command, tmp_path):
    summaries = [json.loads(command("--json", out=out).stdout) for out in ("one", "two")]
    assert [summary["passed"] for summary in summaries] == [True, True]
    assert summaries[0]["codes"]["compared"] > 0 and summaries[0]["exit_code"] == 0
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


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


def test_the_recipe_that_is_taken_where_none_is_given_is_told(command):
    few = ("--set", "method.steps=1", "--set", "finish.steps=1", "--set", "images.batch_size=4")
    without = command("--target", "reference", "--dry-run", recipe=few)
    assert without.exit_code == 0 and "no --recipe is given, so isobit_w4a8 is taken" in without.stderr
    named = command("--target", "reference", "--dry-run", recipe=("--recipe", "isobit_w4a8", *few))
    assert named.exit_code == 0 and "is taken" not in named.stderr


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


def test_gates_that_cannot_be_held_are_refused(command):
    refused(command("--max-drop", "1", evaluation=None), "--max-drop", "an accuracy gate needs labels")
    for amount in ("-100", "nan"):
        refused(command("--max-drop", amount), "--max-drop", "a finite number, 0 or more")


# --- images and functions ---

MINE = """import numpy as np
import torch

with np.load({path!r}) as file:
    FILE = dict(file)


def samples():
    return torch.utils.data.TensorDataset(torch.from_numpy(FILE["x"]), torch.from_numpy(FILE["y"]))


def broken():
    yield FILE["x"][0]
    yield FILE["z"]
"""


def test_a_function_gives_the_samples_of_the_file_that_it_reads(command, files, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.format(path=str(files / "calib.npz")))
    function = "mine.py:samples"
    result = command("--calib-data", function, "--eval-data", function, calib=None, evaluation=None)
    assert result.exit_code == 0, result.stderr
    assert command(out="whole").exit_code == 0
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("out", "whole")]
    assert manifests[0]["calibration"] == manifests[1]["calibration"] and "preprocessing" not in manifests[0]


def test_a_mistake_in_a_function_is_the_users_own_line(command, files, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.format(path=str(files / "calib.npz")))
    refused(command("--calib-data", "mine.py:broken", calib=None), "the function fails: KeyError", "mine.py:14",
            "--calib-data mine.py:broken")
    refused(command("--calib-data", "mine.py:nobody", calib=None), "there is no 'nobody' in it")


def test_pictures_of_some_classes_make_an_artifact_that_predicts(command, files, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"c{i} name {i}\n" for i in range(CLASSES)))
    for index in (3, 1):
        shutil.copytree(files / "pixels" / f"class{index}", tmp_path / "some" / f"c{index}")
    options = ("--resize", "8x8", "--channels", "bgr", "--pixel-range", "-1..1", "--classes", "names.txt")
    result = command(*options, calib="pixels", evaluation=None, out="flat", recipe=(*FAST, "--set", "images.count=5"))
    refused(result, "the class folder 'class0' is not in the file of --classes")
    flat = tmp_path / "many"
    flat.mkdir()
    for index in range(CLASSES):
        shutil.copy(files / "pixels" / f"class{index}" / "image.png", flat / f"{index}.png")
    result = command(*options, "--calib-data", "many", "--eval-data", "some", calib=None, evaluation=None)
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["preprocessing"]
    assert (record["resize"], record["channels"], record["pixel_range"]) == ("stretch", "bgr", [-1, 1])
    assert record["classes"][3] == "c3 name 3" and record["height"] == record["width"] == 8
    done = subprocess.run([sys.executable, "-I", "out/predict.py", "many/3.png"], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == CLASSES, done.stderr
    assert "c3 name 3" in done.stdout


def test_pictures_without_labels_are_evaluated_without_an_accuracy(command, files, tmp_path):
    (tmp_path / "flat").mkdir()
    for index in range(CLASSES):
        shutil.copy(files / "pixels" / f"class{index}" / "image.png", tmp_path / "flat" / f"{index}.png")
    result = command("--eval-data", "flat", evaluation=None)
    assert result.exit_code == 0, result.stderr + result.stdout
    assert "by the float network's own answers" in result.stdout


# --- the dry run ---


def test_dry_run_shows_where_every_layer_runs_and_reads_no_data(command, tmp_path):
    result = command("--dry-run", "--input-size", "3,8,8", calib="not/there", recipe=("--recipe", "qdrop_w4a4"))
    assert result.exit_code == 0, result.stderr
    assert "not/there is not there yet" in result.stderr + result.stdout
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "conv2d+relu" in rows["stem"] and "integers" in rows["stem"]
    assert "4 asym" in rows["inner"] and "4 unsigned" in rows["inner"]
    assert "W4A8 is as small and as fast as W4A4" in result.stdout
    assert "expected: about" in result.stdout and "calibration images assumed" in " ".join(result.stdout.split())
    assert "images at once in calibration" in " ".join(result.stdout.split())
    assert left_after(tmp_path) == []


def test_an_output_is_chosen_by_its_name(command):
    assert command("--dry-run", "--output", "logits").exit_code == 0
    result = command("--dry-run", "--output", "boxes")
    assert result.exit_code == 2 and "no output 'boxes'" in result.stderr and "logits" in result.stderr


def test_dry_run_looks_at_one_header_where_nothing_else_tells_the_shape(command):
    summary = json.loads(command("--dry-run", "--json").stdout)
    assert summary["expected"]["cpu_seconds"] >= 0 and "H200" in summary["expected"]["gpu"]
    assert summary["input_shape"] == [3, 8, 8] and summary["classes"] == CLASSES
    assert {row["runs"] for row in summary["placement"]} >= {"integer"}
    assert json.loads(command("--dry-run", "--json", calib=None).stdout)["input_shape"] == [3, 8, 8]  # of --eval-data
    refused(
        command("--dry-run", calib=None, evaluation=None), "the shape of the model's input is not known", "--input-size"
    )


def test_dry_run_knows_whether_the_images_fill_a_batch(command):
    many = ("--set", "images.batch_size=13")
    refused(command("--dry-run", *many, recipe=LEARN), "12 calibration images do not fill one batch of 13",
            "--set images.batch_size=12")
    assert command("--dry-run", *many).exit_code == 0  # minmax has no steps
    refused(command(*many, recipe=LEARN), "do not fill one batch of 13")


def test_dry_run_refuses_what_a_build_would_refuse(command):
    asymmetric = ("--set", "weights.symmetric=false")
    refused(command("--dry-run", *asymmetric), "annotate:", "stem", "symmetric", "allowed:", "do:")


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
    assert not stdout and left_after(tmp_path) == [".checkpoints"]

    resumed = command("--resume", recipe=LEARN)
    assert resumed.exit_code == 0, resumed.stderr
    assert left_after(tmp_path) == ["out"]
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
    assert left_after(tmp_path) == ["out"]
