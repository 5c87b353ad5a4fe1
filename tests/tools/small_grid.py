"""A data folder of the shape that `reproduce.py` expects, with tiny networks in it, and records of made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isobit.pipeline.recipe.file import load_recipe
from tests.examples.tiny import model_and_images
from tools.reproduce.plan import Cell

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


def record(cell: Cell, top1: float, cpu_s: float = 10.0, error: str | None = None) -> dict[str, Any]:
    """A record as the process of a cell writes it, with numbers made up; of a failed one, what is left of it."""
    if error is not None:
        return {"id": cell.id, "key": "", "error": error}
    recipe = load_recipe(cell.recipe, cell.edits)
    unit = {"name": "block", "undecided": 0.02, "kept_nearest": False}
    return {
        "id": cell.id, "key": "key", "code": "c" * 64, "seed": cell.seed, "error": None,
        "machine": {"cpu": "A Processor", "cores": 2}, "versions": {"torch": "2.15.0"},
        "recipe": {"name": recipe.name, "sha256": recipe.sha256, "text": recipe.to_yaml()},
        "accuracy": {"float": 90.0, "artifact": top1}, "undecided": 0.02, "kept_nearest": 0, "units": [unit, unit],
        "proof": {"differing": 0, "logits_differing": 0, "compared": 1000},
        "phases": {"calibrate": {"cpu_s": cpu_s, "wall_s": cpu_s}}, "synthetic": False, "notes": [], "last_epoch": {},
    }
