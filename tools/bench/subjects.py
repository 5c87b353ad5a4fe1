"""The networks of the benches and their data: two trained ones, and two with random weights for latency at 224.

The trained ones live outside the repository; without them the benches say so and measure what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision import models

from isobit.pipeline.model.modelfile import LoadedModel, load_model
from isobit.pipeline.samples.data import Batches, open_data
from tools.bench.rows import DS_CNN, RESNET

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RANDOM_IMAGES = 8
BATCH = 100
QUICK_EVALUATION = 100
SEED = 1005


@dataclass(frozen=True)
class Subject:
    """A network with data.

    Args:
        load: reads or makes the model.
        calibration: opens the calibration images, given how many the recipe wants and its seed.
        evaluation: opens the evaluation set.
    """

    name: str
    load: Callable[[], LoadedModel]
    calibration: Callable[[int, int], Batches]
    evaluation: Callable[[], Batches]


def trained(data: Path, quick: bool = False) -> dict[str, Subject]:
    """The two trained networks that are found below `data` (see its README), by name; empty where there is none."""
    count = QUICK_EVALUATION if quick else None
    cifar, kws, nets = data / "cifar10", data / "kws", data / "models"
    subjects = {
        RESNET: Subject(
            RESNET,
            lambda: load_model(nets / "resnet20_cifar10.pth", f"{nets / 'resnet_cifar.py'}:resnet20"),
            lambda wanted, seed: open_data(cifar / "calib", **IMAGENET, batch_size=BATCH, purpose="calib",
                                           count=wanted, seed=seed),
            lambda: open_data(cifar / "val", **IMAGENET, batch_size=BATCH, purpose="eval", count=count),
        ),
        DS_CNN: Subject(
            DS_CNN,
            lambda: load_model(nets / "ds_cnn_kws.pth", f"{nets / 'ds_cnn.py'}:ds_cnn"),
            lambda wanted, seed: open_data(kws / "calib.npz", batch_size=BATCH, purpose="calib", count=wanted,
                                           seed=seed),
            lambda: open_data(kws / "val.npz", batch_size=BATCH, purpose="eval", count=count),
        ),
    }
    needed = {RESNET: (nets / "resnet20_cifar10.pth", cifar / "val"), DS_CNN: (nets / "ds_cnn_kws.pth", kws)}
    return {name: subject for name, subject in subjects.items() if all(path.exists() for path in needed[name])}


def random_weights(folder: Path, size: int = 224) -> dict[str, Subject]:
    """ResNet-18 and MobileNetV2 with random weights, on random images that are kept in `folder`."""
    path = folder / f"random-{size}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(SEED)
        np.save(path, torch.randn(RANDOM_IMAGES, 3, size, size, generator=generator).numpy())
    return {
        factory.__name__: Subject(
            factory.__name__,
            lambda factory=factory: LoadedModel(lively(factory, size), None, factory.__name__, "", None),
            lambda wanted, seed: open_data(path, batch_size=BATCH, purpose="calib", count=wanted, seed=seed),
            lambda: open_data(path, batch_size=BATCH, purpose="eval"),
        )
        for factory in (models.resnet18, models.mobilenet_v2)
    }


def lively(factory: Callable[[], nn.Module], size: int) -> nn.Module:
    """A network with random weights whose batch-norm statistics fit them: activations neither die nor explode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model = factory()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics become those of the one batch below
        model.train()(torch.randn(4, 3, size, size))
    return model.eval()
