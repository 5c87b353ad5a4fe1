"""A network of a few thousand weights with data, in the place of the benches' trained ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.samples.data import open_data
from tests.examples.tiny import model_and_images
from tools.bench.subjects import Subject

ARCH = f"{Path(__file__).parents[1] / 'examples' / 'tiny.py'}:Residual"


def small_subject(folder: Path, name: str = "resnet20") -> Subject:
    """The tiny residual network, its weights in a file, 40 images for calibration and evaluation."""
    model, images = model_and_images(samples=40)
    torch.save(model.state_dict(), folder / "tiny.pth")
    with torch.no_grad():
        labels = model(images).argmax(1)
    np.savez(folder / "data.npz", x=images.numpy(), y=labels.numpy())
    return Subject(
        name,
        lambda: load_model(folder / "tiny.pth", ARCH),
        lambda wanted, seed: open_data(folder / "data.npz", batch_size=20, purpose="calib", count=wanted, seed=seed),
        lambda: open_data(folder / "data.npz", batch_size=20, purpose="eval"),
    )
