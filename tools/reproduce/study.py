"""The plan as a study of `isobit sweep`: networks with their data are models, a line is a recipe for one of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tools.bench.rows import CELLS, DS_CNN, EFFICIENTNET, RESNET
from tools.reproduce.experiments import Cell, Group, cells_of

TARGET = "onnx"
POOL = "-pool"
OTHER_LEVELS = 128  # samples of the proof that levels which nobody deploys with see
MEMORY = 3  # GB a cell
_DECODER = Path(__file__).with_name("cell_boxes.py")


def models(data: Path) -> dict[str, dict[str, Any]]:
    """Entries of `models:` by name.

    Args:
        data: the folder of trained networks and their data; what is in it says the README there.
    """
    known: dict[str, dict[str, Any]] = {
        RESNET: {
            **_files(data, "resnet20_cifar10.pth", "resnet_cifar.py:resnet20", "cifar10/calib", "cifar10/val"),
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        },
        DS_CNN: _files(data, "ds_cnn_kws.pth", "ds_cnn.py:ds_cnn", "kws/calib.npz", "kws/val.npz"),
        EFFICIENTNET: {
            **_files(data, "efficientnet_lite0_imagenet.pth", "efficientnet_lite.py:efficientnet_lite0",
                     "imagenet/calib", "imagenet/val"),
            "mean": 127, "std": 128, "input_size": 224, "pixel_range": "0..255",
            "classes": str(data / "imagenet" / "classes.txt"),
        },
        CELLS: {
            **_files(data, "cell_detector_bccd.pth", "cell_detector.py:cell_detector", "cells/train.json",
                     "cells/val.json"),
            "mean": 0.5, "std": 0.25, "resize": "240x320", "metric": "map", "decoder": f"{_DECODER}:decode",
        },
    }
    known[RESNET + POOL] = {**known[RESNET], "calib_data": str(data / "cifar10" / "pool")}
    return {name: {"name": name, "parity_samples": OTHER_LEVELS, **entry} for name, entry in known.items()}


def _files(data: Path, model: str, arch: str, calibration: str, evaluation: str) -> dict[str, Any]:
    return {"file": str(data / "models" / model), "arch": str(data / "models" / arch),
            "calib_data": str(data / calibration), "eval_data": str(data / evaluation)}


def model_of(cell: Cell) -> str:
    """The name of the model that a cell builds; a recipe that makes its images reads none of its data."""
    return cell.subject + (POOL if cell.images == "pool" else "")


def study_of(groups: Iterable[Group], data: Path) -> dict[str, Any]:
    """What the study file holds; an experiment of several groups stands there once, with the seeds of all."""
    seeds: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    for cell in cells_of(tuple(groups)):
        seeds.setdefault((model_of(cell), cell.recipe, cell.sets), []).append(cell.seed)
    used = {model for model, _, _ in seeds}
    return {
        "models": [entry for name, entry in models(data).items() if name in used],
        "recipes": [{"name": recipe, "set": list(sets), "models": [model], "seeds": known}
                    for (model, recipe, sets), known in seeds.items()],
        "targets": [TARGET],
        "resources": {"cpus": 1, "memory": MEMORY},
    }


def write_study(groups: Iterable[Group], data: Path, folder: Path) -> Path:
    """The study file of the groups, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    content = json.loads(json.dumps(study_of(groups, data)))  # no list twice: it would be written as an alias
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=120), encoding="utf-8")
    return path
