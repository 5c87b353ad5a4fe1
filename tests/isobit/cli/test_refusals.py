"""Bad input to the command: what is refused, in which words, with nothing left behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.examples import tiny
from tests.isobit.commands import CLASSES, ROOT, SAMPLES, refused

# --- bad input: model ---


def test_model_files_that_cannot_be_read(command, files, tmp_path):
    refused(command(model=files / "modle.pth"), "does not exist", "Did you mean 'model.pth'?")
    refused(command(model=files / "modle.pth", calib=None), "does not exist", "Did you mean 'model.pth'?")
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
    refused(command(arch="resnet81"), "no network 'resnet81'", "Did you mean 'resnet18'?")
    refused(command(arch=None), "does not say which network", "--arch")
    (tmp_path / "arch.py").write_text("import nothing_like_this\n")
    refused(command(arch=f"{tmp_path}/arch.py:net"), "does not import", "nothing_like_this", "arch.py:1")


def test_a_branch_on_data_is_named_by_its_line(command, tmp_path):
    shutil.copy(ROOT / "tests" / "examples" / "tiny.py", tmp_path)
    (tmp_path / "branch.py").write_text(
        "import tiny\n\nclass Branch(tiny.Residual):\n    def forward(self, x):\n"
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
    refused(command(calib=tmp_path / "gone"), "does not exist", "gone", "Paths start at")
    (tmp_path / "empty").mkdir()
    refused(command(calib=tmp_path / "emty" / "calib"), "does not exist", "Did you mean", "empty'?")
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


def test_a_mistake_in_model_or_data_is_told_before_the_folder_that_exists(command, files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for mistake in ({"model": "gone.pth"}, {"calib": "gone.npz"}):
        result = command(**mistake)
        assert result.exit_code == 2 and "does not exist" in result.stderr and "--overwrite" not in result.stderr


@pytest.mark.parametrize(("arguments", "texts"), [
    (("--resize", "240"), ("'240' is not a size", "240x320")),
    (("--resize", "0x9"), ("'0x9' is not a size",)),
    (("--channels", "rbg"), ("no order of channels 'rbg'", "Did you mean 'rgb'?")),
    (("--pixel-range", "0..2"), ("cannot be scaled to '0..2'", "-1..1")),
    (("--classes", "gone.txt"), ("no such text file", "gone.txt")),
    (("--resize", "8x8", "--input-size", "9"), ("both 9x9 and 8x8", "--input-size or --resize")),
])
def test_options_of_images_that_cannot_be_honoured(command, arguments, texts):
    refused(command(*arguments, calib="pixels"), *texts)


def test_a_place_that_cannot_hold_the_folder_is_refused_before_work(command, tmp_path):
    (tmp_path / "file").write_text("")
    result = command(out="file/out")
    assert result.exit_code == 2 and "a file is in its way" in result.stderr
    assert "calibrate" not in result.stderr
