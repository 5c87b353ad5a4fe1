"""COCO's mean average precision of boxes, by faster-coco-eval: over ten overlaps from 0.5 to 0.95, and over classes.

The decoder gives the boxes of each image (`pipeline.samples.decoder.Detections`). Detections and targets are kept, for
precision is over all images at once.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import metric
from isobit.pipeline.samples.decoder import Detections


@metric("map", "COCO mean average precision", unit="%", decoded=True)
class MeanAveragePrecision:
    """Attributes:
    wanted, found: annotations in COCO's form, of images numbered from 1.
    images: seen.

    Raises:
        InputError: faster-coco-eval is not installed.
    """

    def __init__(self) -> None:
        self._coco = _library()
        self.wanted: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.images = 0

    def update(self, outputs: Sequence[Any], target: Any) -> None:
        """Keep the boxes of one batch.

        Args:
            outputs: what the decoder finds in each image.
            target: for each image `boxes` [M, 4] (x1 y1 x2 y2, pixels of the network's input) and `labels` [M];
                `iscrowd` [M] marks boxes of several things, which count neither when found nor when missed.

        Raises:
            InputError: either is of another form.
        """
        for given, wanted in zip(outputs, target, strict=True):
            if not isinstance(given, Detections):
                raise InputError(f"the metric 'map' compares boxes, and the decoder gives {type(given).__name__}",
                                 field="options.decoder", allowed="(boxes [M, 4], scores [M], labels [M])")
            self.images += 1
            for place, label, crowd in zip(*_boxes_of(wanted), strict=True):
                self.wanted.append(self._entry(place, label) | {"id": len(self.wanted) + 1, "iscrowd": int(crowd)})
            for place, label, score in zip(given.boxes, given.labels, given.scores, strict=True):
                if np.isfinite(score) and np.isfinite(place).all():
                    self.found.append(self._entry(place, label) | {"score": float(score)})

    def compute(self) -> float | None:
        """In percent; None where no target has a box."""
        if not self.wanted:
            return None
        if not self.found:
            return 0.0
        classes = {entry["category_id"] for entry in (*self.wanted, *self.found)}
        truth = {
            "images": [{"id": image} for image in range(1, self.images + 1)], "annotations": self.wanted,
            "categories": [{"id": label, "name": str(label)} for label in sorted(classes)],
        }
        known = self._coco.COCO(copy.deepcopy(truth))
        judged = self._coco.COCOeval_faster(known, known.loadRes(copy.deepcopy(self.found)), "bbox")
        judged.run()
        return round(100 * max(0.0, float(judged.stats[0])), 4)

    def _entry(self, place: np.ndarray, label: Any) -> dict[str, Any]:
        left, top, right, bottom = map(float, place)
        size = [left, top, right - left, bottom - top]
        return {"image_id": self.images, "category_id": int(label), "bbox": size, "area": size[2] * size[3]}


def _library() -> ModuleType:
    """faster-coco-eval, an extra; raises InputError where it is not installed."""
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError:
        raise InputError(
            "the metric 'map' needs faster-coco-eval, which is not installed", field="options.metrics",
            hint="pip install 'isobit[detection]'",
        ) from None


def _boxes_of(target: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes, labels, which are crowds) of one image."""
    try:
        if not isinstance(target, Mapping):
            raise TypeError
        boxes, labels = np.asarray(target["boxes"], np.float64), np.asarray(target["labels"]).reshape(-1)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        crowds = np.asarray(target.get("iscrowd", np.zeros(len(boxes)))).reshape(-1)
        if boxes.shape != (len(labels), 4) or len(crowds) != len(boxes) or not np.isfinite(boxes).all():
            raise ValueError
        return boxes, labels.astype(np.int64), crowds.astype(np.int64)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "a target of the metric 'map' cannot be read", field="evaluation",
            allowed="for each image a dictionary with boxes [M, 4] (x1 y1 x2 y2, pixels of the input) and labels [M]",
        ) from None
