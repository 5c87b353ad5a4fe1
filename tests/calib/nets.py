"""The tiny network of `tests.tiny` under a recipe, ready for calibration: shared by the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor

from calib.context import Calibration
from calib.ranges import search_ranges
from pipeline.recipe import Recipe, load_recipe
from pipeline.stages import Quantized, UnitLog
from pipeline.target import OpRule, Target
from tests.tiny import model_and_images, quantized_net

CPU = torch.device("cpu")
IMAGES = 48
# The papers' world with the extra quantizer that integer runtimes ask for: 8 bits before a sum.
TARGET = Target(
    "test", "generic",
    {
        "conv2d": OpRule("quantized", "own", absorbs=("relu",)),
        "linear": OpRule("quantized", "own", absorbs=("relu",)),
        "add": OpRule("quantized", "own", absorbs=("relu",), inner_bits=8),
        "mean": OpRule("quantized", "own"),
        "view": OpRule("quantized", "as_input"),
    },
)


def recipe(name: str = "qdrop_w4a4", *sets: str, steps: int = 40, batch: int = 8) -> Recipe:
    own = [f"images.batch_size={batch}"] + ([f"method.steps={steps}"] if name.startswith("qdrop") else [])
    return load_recipe(name, [*own, *sets])


def net(of: Recipe | None = None, samples: int = IMAGES) -> tuple[Quantized, Tensor]:
    model, images = model_and_images(samples=samples)
    quantized, _ = quantized_net(TARGET, of or recipe(), model, images)
    return quantized, images


class Notes:
    """A watcher that remembers; raises `KeyboardInterrupt` when `stop_at` units are done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.total, self.steps, self.logs, self.stop_at = 0, 0, [], stop_at
        self.trained = 0

    def units(self, total: int, steps: int) -> None:
        self.total, self.steps = total, steps

    def step(self, count: int) -> None:
        self.trained += count

    def done(self, log: UnitLog) -> None:
        self.logs.append(log)
        if self.stop_at is not None and len(self.logs) == self.stop_at:
            raise KeyboardInterrupt


def calibration(of: Recipe | None = None, ranges: bool = True, watcher: Notes | None = None) -> Calibration:
    """A calibration of the tiny network, its ranges searched."""
    quantized, images = net(of)
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, watcher or Notes())
    if ranges:
        search_ranges(made)
    return made
