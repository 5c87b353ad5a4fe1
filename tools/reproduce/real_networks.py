"""Experiments on real networks: EfficientNet-Lite0 on ImageNet pictures, a detector of blood cells.

Budgets are those of a few minutes on two CPU cores for each cell, and stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

from tools.bench.rows import CELLS, EFFICIENTNET
from tools.reproduce.experiments import Group, Line

SEEDS = (1005,)
# The first maps of EfficientNet-Lite0 have 112 x 112 places, so that few images say much. Soft rounding is undecided
# after so few steps; hard rounding is decided in every one.
_HARD = "method.rounding={name: signsgd}"
_FEW = ("images.count=128", "images.batch_size=8")
_UNITS = ("images.count=128", "images.batch_size=16", "method.init_images=64", "method.steps=60", _HARD)
_BOXES = ("images.count=128", "images.batch_size=8", "method.steps=100", _HARD)
BUDGETS: Mapping[tuple[str, str], tuple[str, ...]] = {
    (EFFICIENTNET, "nearest"): _FEW,
    (EFFICIENTNET, "mse"): _FEW,
    (EFFICIENTNET, "adaround"): _UNITS,
    (EFFICIENTNET, "brecq"): (*_UNITS, "method.activation_steps=15", "method.skip_stem=false"),
    (EFFICIENTNET, "qdrop"): _UNITS,
    (EFFICIENTNET, "pdquant"): (*_UNITS, "method.prediction_images=4", "method.correction_steps=60"),
    (EFFICIENTNET, "nearest-finish"): ("images.count=384", "finish.steps=200"),
    (EFFICIENTNET, "qdrop-finish"): (),
    (EFFICIENTNET, "zeroq"): ("images.count=32", "images.batch_size=8", "images.batch=8", "images.iterations=60"),
    (CELLS, "nearest"): (),
    (CELLS, "mse"): (),
    (CELLS, "adaround"): _BOXES,
    (CELLS, "brecq"): (*_BOXES, "method.activation_steps=25"),
    (CELLS, "qdrop"): _BOXES,
    (CELLS, "pdquant"): (*_BOXES, "method.prediction_images=4", "method.correction_steps=0"),
    (CELLS, "nearest-finish"): (),
    (CELLS, "qdrop-finish"): (),
    (CELLS, "zeroq"): ("images.count=32", "images.batch_size=8", "images.batch=8", "images.iterations=100"),
}
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4")
# The stem's output and the weights of depthwise layers have 8 bits for every method.
POLICY = "policy=depthwise"
WITHOUT_DATA = frozenset({"zeroq"})


def _group(name: str, subject: str) -> Group:
    """Every method with a budget for `subject`, at all bits; without data at the bits at which that can work."""
    lines = []
    for network, method in BUDGETS:
        if network != subject:
            continue
        made = method in WITHOUT_DATA
        for bits in BITS[:2] if made else BITS:
            shared = () if made or bits == "w8a8" else (POLICY,)
            edits = (*BUDGETS[network, method], *shared)
            lines.append(Line(subject, f"{method}_{bits}", edits, SEEDS, None if made else "calib", paper="none"))
    return Group(name, tuple(lines), view="methods")


def imagenet() -> Group:
    """Top-1 of EfficientNet-Lite0 on 500 pictures of ImageNet."""
    return _group("imagenet", EFFICIENTNET)


def cells() -> Group:
    """Average precision of the cell detector on 87 pictures."""
    return _group("cells", CELLS)
