"""COCO's mean average precision of boxes, by faster-coco-eval: over ten overlaps from 0.5 to 0.95, and over classes.

`map50` is that of the overlap 0.5 alone, and is said wherever `map` is. The decoder gives the boxes of each image
(`pipeline.samples.decoder.Detections`), of which the 100 of the highest scores count. Detections and targets are kept,
for precision is over all images at once. Without targets the float network's own boxes stand for them, those with a
score of `score` or more; then all count.
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

MOST = 100  # boxes of an image that count where it is annotated, as COCO has it
SCORE = 0.3  # from which a box of the float network counts as one that should be found


@metric("map", "COCO mean average precision", unit="%", decoded=True, answers="boxes", beside=("map50",))
class MeanAveragePrecision:
    """Attributes:
    wanted, found: annotations in COCO's form, of images numbered from 1.
    images: seen.
    boxes, rubbish: found, and how many of them are none: with a side below 0, or not finite.

    Raises:
        InputError: faster-coco-eval is not installed.
    """

    figure = 0  # of COCO's twelve

    def __init__(self, score: float = SCORE) -> None:
        self._coco, self._score = _library(), score
        self._most: int | None = MOST
        self.wanted: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.images = self.boxes = self.rubbish = 0

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
            real = _are_boxes(given)
            self.images += 1
            self.boxes, self.rubbish = self.boxes + len(real), self.rubbish + int((~real).sum())
            for place, label, crowd in zip(*_boxes_of(wanted), strict=True):
                self.wanted.append(self._entry(place, label) | {"id": len(self.wanted) + 1, "iscrowd": int(crowd)})
            for place, label, score in zip(given.boxes[real], given.labels[real], given.scores[real], strict=True):
                self.found.append(self._entry(place, label) | {"score": float(score)})

    def answer(self, outputs: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """Boxes as targets: those with an area and with a score that is high enough, however many."""
        self._most = None
        kept = [_are_boxes(given) & (given.scores >= self._score) & (given.boxes[:, 2:] > given.boxes[:, :2]).all(1)
                for given in outputs]
        return [{"boxes": given.boxes[of], "labels": given.labels[of]} for given, of in zip(outputs, kept, strict=True)]

    def remark(self) -> str:
        """How many of the boxes are none."""
        return f"{self.rubbish:,} of {self.boxes:,} boxes have a side below 0 or are not finite" if self.rubbish else ""

    def check_float(self) -> None:
        """Raises InputError where most boxes of the float network are none: the decoder gives something else."""
        if 2 * self.rubbish > self.boxes:
            raise InputError(
                f"{self.remark()}, of the float network's", field="options.decoder",
                allowed="boxes as x1 y1 x2 y2 in pixels of the input, x2 not below x1, y2 not below y1",
            )

    def compute(self) -> float | None:
        """In percent; None where no target has a box."""
        if not self.wanted:
            return None
        if not self.found:
            return 0.0 if any(not entry["iscrowd"] for entry in self.wanted) else None
        classes = {entry["category_id"] for entry in (*self.wanted, *self.found)}
        truth = {
            "images": [{"id": image} for image in range(1, self.images + 1)], "annotations": self.wanted,
            "categories": [{"id": label, "name": str(label)} for label in sorted(classes)],
        }
        known = self._coco.COCO(copy.deepcopy(truth))
        judged = self._coco.COCOeval_faster(known, known.loadRes(copy.deepcopy(self.found)), "bbox")
        if self._most is None:  # else COCO's 100 in an image, of which crowds hold more
            judged.params.maxDets = [*judged.params.maxDets[:-1], max(MOST, len(self.found))]
        judged.run()
        value = float(judged.stats[self.figure])
        return round(100 * value, 4) if value >= 0 else None  # below 0 where all targets are crowds

    def _entry(self, place: np.ndarray, label: Any) -> dict[str, Any]:
        left, top, right, bottom = map(float, place)
        size = [left, top, right - left, bottom - top]
        return {"image_id": self.images, "category_id": int(label), "bbox": size, "area": size[2] * size[3]}


@metric("map50", "average precision at an overlap of 0.5", unit="%", decoded=True, answers="boxes")
class AveragePrecision50(MeanAveragePrecision):
    """The same at the one overlap, 0.5."""

    figure = 1


def _are_boxes(given: Any) -> np.ndarray:
    """Which of the boxes of one image are finite and have no side below 0; raises InputError where there are none."""
    if not isinstance(given, Detections):
        raise InputError(f"average precision (map, map50) compares boxes, and the decoder gives {type(given).__name__}",
                         field="options.decoder", allowed="(boxes [M, 4], scores [M], labels [M])")
    finite = np.isfinite(given.scores) & np.isfinite(given.boxes).all(axis=1)
    return finite & (given.boxes[:, 2:] >= given.boxes[:, :2]).all(axis=1)


def _library() -> ModuleType:
    """faster-coco-eval, an extra; raises InputError where it is not installed."""
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError:
        raise InputError(
            "average precision (map, map50) needs faster-coco-eval, which is not installed", field="options.metrics",
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
            "a target of average precision (map, map50) cannot be read", field="evaluation",
            allowed="for each image a dictionary with boxes [M, 4] (x1 y1 x2 y2, pixels of the input) and labels [M]",
        ) from None
