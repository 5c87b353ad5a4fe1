"""The demo's checkpoint: the form that the compiler reads, real accuracy, the same from the same seed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from tools import make_checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, make_checkpoints.make_checkpoints(folder / "demo", epochs=6)


def _rebuild(path: Path) -> torch.nn.Module:
    """Only from what the checkpoint says, as the compiler does it."""
    checkpoint = torch.load(path, weights_only=True)
    file, _, factory = checkpoint["arch"].partition(":")
    spec = importlib.util.spec_from_file_location("digits_model_from_checkpoint", ROOT / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, factory)(**checkpoint["kwargs"])
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def test_checkpoint_alone_reproduces_the_accuracy_on_held_out_digits(built):
    folder, top1 = built
    val = np.load(folder / "demo" / "val.npz")
    model = _rebuild(folder / "demo" / "digits.pth")
    assert make_checkpoints.accuracy(model, torch.from_numpy(val["x"]), torch.from_numpy(val["y"])) == top1
    assert top1 > 90


def test_data_files_hold_images_and_labels(built):
    folder, _ = built
    for name, count in (("calib", 256), ("val", 450)):
        data = np.load(folder / "demo" / f"{name}.npz")
        assert data["x"].shape == (count, 1, 8, 8) and data["x"].dtype == np.float32
        assert data["x"].min() >= 0 and data["x"].max() == 1
        assert data["y"].shape == (count,) and set(data["y"]) == set(range(10))


def test_calibration_images_are_not_evaluation_images():
    digits = make_checkpoints.load(seed=0)
    # The data set itself holds no two equal images, so any equal pair would be a leak.
    train = {image.numpy().tobytes() for image in digits.x_train}
    val = {image.numpy().tobytes() for image in digits.x_val}
    assert len(train) + len(val) == 1797
    assert not train & val


def test_same_seed_same_weights_and_the_callers_generator_is_untouched():
    digits = make_checkpoints.load(seed=0)
    before = torch.get_rng_state()
    first, second = (make_checkpoints.train(digits, epochs=1, seed=3).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_command_prints_the_held_out_accuracy(tmp_path, capsys):
    make_checkpoints.main(["--out", str(tmp_path), "--epochs", "1"])
    assert "% of 450 held-out digits" in capsys.readouterr().out
