"""Boxes of the cell detector's outputs: what its docstring says, as a decoder for `map`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

STRIDE = 8  # pixels of the input between two places of the outputs
LEAST_SCORE, OVERLAP, MOST = 0.05, 0.5, 100
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def decode(outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Found:
    """Boxes [M, 4] in pixels, scores [M] and classes [M] of one sample, the highest score first.

    Args:
        outputs: logits [classes, H, W], and distances [4, H, W] to left, top, right and bottom in strides from the
            centre of the place; told apart by their numbers of channels.
        size: (height, width) of the input.
    """
    (distances,) = [value for value in outputs.values() if value.shape[0] == 4]
    (logits,) = [value for value in outputs.values() if value.shape[0] != 4]
    scores = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    y, x = np.mgrid[: logits.shape[1], : logits.shape[2]] + 0.5
    left, top, right, bottom = distances
    corners = np.stack([x - left, y - top, x + right, y + bottom], -1) * STRIDE
    corners = corners.clip(0, [size[1], size[0], size[1], size[0]])
    boxes, found, labels = [], [], []
    for label, score in enumerate(scores):
        places = score > LEAST_SCORE
        kept = suppressed(corners[places], score[places])
        boxes.append(corners[places][kept])
        found.append(score[places][kept])
        labels.append(np.full(len(kept), label))
    ranked = np.concatenate(found)
    best = ranked.argsort()[::-1][:MOST]
    return np.concatenate(boxes)[best], ranked[best], np.concatenate(labels)[best]


def suppressed(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Non-maximum suppression: indices of the boxes that no better one overlaps by more than `OVERLAP`."""
    order, kept = scores.argsort()[::-1], []
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    while order.size:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        low, high = np.maximum(boxes[first, :2], boxes[rest, :2]), np.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = (high - low).clip(0).prod(1)
        order = rest[shared / (area[first] + area[rest] - shared + 1e-9) <= OVERLAP]
    return kept


def judge(found: Mapping[str, np.ndarray], folder: Path) -> dict[str, float]:
    """AP of outputs [N, ...] by the targets that `tools/check/peers.py` wrote to `folder`."""
    from isobit.pipeline.proof.metrics.mean_average_precision import MeanAveragePrecision
    from isobit.pipeline.samples.decoder import Detections

    targets = json.loads((folder / "targets.json").read_text(encoding="utf-8"))
    size = (STRIDE * next(iter(found.values())).shape[-2], STRIDE * next(iter(found.values())).shape[-1])
    metric = MeanAveragePrecision()
    for sample, target in enumerate(targets):
        boxes = {key: np.asarray(value) for key, value in target.items()}
        given = decode({name: value[sample] for name, value in found.items()}, size)
        metric.update([Detections(*given)], [boxes])
    return {"ap": round(float(metric.compute() or 0.0), 2)}
