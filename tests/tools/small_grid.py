"""A data folder of the shape that `reproduce.py` expects, with tiny networks in it, and rows of made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isobit.sweep.results import DONE, FAILED, Row
from tests.examples.tiny import model_and_images
from tools.reproduce.plan import Cell, Line
from tools.reproduce.study import TARGET, model_of

SOURCE = Path(__file__).parents[1] / "examples" / "tiny.py"


def small_data(folder: Path, pictures: bool = False) -> Path:
    """`ds_cnn` on 40 arrays of 8 x 8; with `pictures` also `resnet20`, on images of five classes."""
    model, images = model_and_images(samples=40)
    (folder / "models").mkdir(parents=True)
    (folder / "kws").mkdir()
    with torch.no_grad():
        labels = model(images).argmax(1)
    for name in ("calib", "val"):
        np.savez(folder / "kws" / f"{name}.npz", x=images.numpy(), y=labels.numpy())
    _network(folder / "models", "ds_cnn_kws.pth", "ds_cnn.py", "ds_cnn", model)
    if pictures:
        _network(folder / "models", "resnet20_cifar10.pth", "resnet_cifar.py", "resnet20", model)
        for number, (kind, each) in enumerate({"calib": 6, "pool": 8, "val": 4}.items()):
            _pictures(folder / "cifar10" / kind, each, number)
    return folder


def _network(folder: Path, weights: str, source: str, name: str, model: torch.nn.Module) -> None:
    torch.save(model.state_dict(), folder / weights)
    (folder / source).write_text(SOURCE.read_text(encoding="utf-8") + f"\n\n{name} = Residual\n", encoding="utf-8")


def _pictures(folder: Path, each: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    for label in range(5):
        (folder / str(label)).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")


def row(cell: Cell, top1: float | None, cpu_s: float = 10.0, error: str = "", **changes: Any) -> Row:
    """A row of the index of a cell, with numbers made up; None for one that failed."""
    said = {"key": "0" * 64, "model": model_of(cell), "recipe": cell.recipe, "edits": cell.sets, "target": TARGET,
            "profile": "generic", "seed": cell.seed, "artifact": f"cells/{cell.seed}"}
    if top1 is None:
        return Row(**said, status=FAILED, error=error)
    measured = {
        "accuracy": {"float": 90.0, "artifact": top1}, "compared": 1000, "differing": 0, "units": 2, "kept_nearest": 0,
        "undecided": 0.02, "cpu_seconds": {"calibrate": cpu_s}, "machine": "A Processor, 2 cores",
        "packages": {"torch": "2.15.0"}, "code": "c" * 12,
    }
    return Row(**said, status=DONE, **{**measured, **changes})


def rows(line: Line, *top1: float | None, **said: Any) -> dict[Cell, Row]:
    """A row for each of the first seeds of a line."""
    return {cell: row(cell, value, **said) for cell, value in zip(line.cells, top1, strict=False)}
