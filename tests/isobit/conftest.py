"""A tiny network with a few samples, and the command in an empty folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from isobit.cli import app
from tests.examples import tiny
from tests.isobit.commands import ARCH, CLASSES, FAST, SAMPLES


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
        return CliRunner().invoke(app, [*given, *map(str, arguments)])

    return run
