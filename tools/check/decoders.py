"""Decoders of the face detectors among the given ONNX files, as a user writes them: numpy alone, boxes of any score.

    isobit centerface.onnx --calib-data faces --eval-data faces --resize 256x256 --pixel-range 0..255 --metric map
        --decoder tools/check/decoders.py:centerface

Boxes with a score of `FLOOR` or more are given, as average precision wants them; what overlaps by more than `OVERLAP`
is the same face.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FLOOR, OVERLAP = 0.1, 0.4
PRIORS = ((8, (10, 16, 24)), (16, (32, 48)), (32, (64, 96)), (64, (128, 192, 256)))  # UltraFace: stride, sides
CENTRE, SIDE = 0.1, 0.2  # variances of UltraFace's offsets
STRIDE = 4  # of CenterFace's maps

Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def ultraface(outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Found:
    """Boxes, scores and labels out of `scores` [4420, 2] and `boxes` [4420, 4], offsets to the priors."""
    height, width = size
    priors = np.concatenate([_priors(height, width, stride, sides) for stride, sides in PRIORS])
    offsets, scores = outputs["boxes"], outputs["scores"][:, 1]
    centres = priors[:, :2] + offsets[:, :2] * CENTRE * priors[:, 2:]
    sides = priors[:, 2:] * np.exp(offsets[:, 2:] * SIDE)
    return _kept(np.concatenate([centres - sides / 2, centres + sides / 2], axis=1), scores, size)


def centerface(outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Found:
    """Boxes, scores and labels out of the maps, in the order heat [1, h, w], sizes and offsets [2, h, w], landmarks."""
    heat, sizes, offsets, *_ = outputs.values()
    rows, columns = np.nonzero(heat[0] >= FLOOR)
    centres = (np.stack([columns, rows]) + offsets[::-1, rows, columns] + 0.5) * STRIDE
    sides = np.exp(sizes[::-1, rows, columns]) * STRIDE
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2]).T
    return _kept(boxes, heat[0, rows, columns], size)


def _priors(height: int, width: int, stride: int, sides: tuple[int, ...]) -> np.ndarray:
    """Centre and side of each prior of one map, [M, 4] in pixels: cell by cell, its sides one after the other."""
    y, x = np.mgrid[:-(-height // stride), :-(-width // stride)]
    centres = np.stack([(x + 0.5) * stride, (y + 0.5) * stride], axis=-1).reshape(-1, 1, 2)
    centres = np.repeat(centres, len(sides), axis=1)
    lengths = np.broadcast_to(np.array(sides, float)[None, :, None], centres.shape)
    return np.concatenate([centres, lengths], axis=-1).reshape(-1, 4)


def _kept(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> Found:
    """What is left of faces within the picture when each is counted once, the surest first."""
    boxes, scores = boxes[scores >= FLOOR], scores[scores >= FLOOR]
    boxes = boxes.clip(0, [size[1], size[0]] * 2)
    waiting, kept = list(np.argsort(-scores, kind="stable")), []
    while waiting:
        best, *others = waiting
        kept.append(best)
        waiting = [other for other in others if _overlap(boxes[best], boxes[other]) <= OVERLAP]
    return boxes[kept], scores[kept], np.zeros(len(kept), np.int64)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    sides = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0)
    shared = float(sides.prod())
    either = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - shared
    return shared / either if either > 0 else 0.0
