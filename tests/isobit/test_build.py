"""The story on a tiny network: data that is given, made or absent, bits by a budget, and calls from Python."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples import data
from isobit.pipeline.samples.data import open_data
from isobit.pipeline.samples.inputs import InputShape
from tests.examples import tiny
from tests.isobit.commands import DATA_FREE, DISTILLED, LEARN, SAMPLES, SMALL, refused, setting


def test_a_build_from_python_takes_a_module(files, tmp_path):

    model, _ = tiny.model_and_images()
    data = open_data(files / "calib.npz", batch_size=4, purpose="calib")
    build = story.compile_model(model, load_recipe("minmax_w8a8", SMALL[1::2]), "reference", data, None, tmp_path / "a")
    assert build.passed and build.folder == tmp_path / "a" and build.manifest.model.name == "Residual"


# --- without data ---



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
        patch.setattr("isobit.calib.sources.distilled.Pixels", stop)
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


def test_a_budget_without_an_image_to_decide_it_is_refused():
    recipe = load_recipe("gdfq_w4a4", ["weights.bits={average: 3}"])
    with pytest.raises(RecipeError, match="the source 'none' gives none"):
        story.check_recipe(recipe)
