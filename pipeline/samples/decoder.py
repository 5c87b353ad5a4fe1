"""Boxes or a text out of a network's outputs: the user's own function, which `--decoder file.py:function` names.

A decoder is `function(outputs, size)`, where `outputs` maps each output's name to its array for one image, without the
batch dimension, and `size` is (height, width) of the network's input. It returns (boxes, scores, labels): [M, 4] in
pixels of the input as x1 y1 x2 y2, [M], and [M] classes counted from 0. M may be 0. Suppression of double boxes is its
own business. A decoder of texts returns one text. The artifact's `predict.py` runs a copy of the file, so it should
import numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.user_code import cause_shown, check_call, function_in_file

MOST_CLASSES = 2**31
FORM = "f(outputs, (height, width))"  # how a decoder is called


@dataclass(frozen=True)
class Detections:
    """What a decoder finds in one image.

    Args:
        boxes: float32 [M, 4], x1 y1 x2 y2 in pixels of the network's input.
        scores: float32 [M].
        labels: int64 [M], classes from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Decoder:
    """A user's function; see the module.

    Args:
        file: the Python file that holds it.
        name: of the function.
    """

    file: Path
    name: str
    function: Callable[[Mapping[str, np.ndarray], tuple[int, int]], Any]

    def __call__(self, outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Detections | str:
        """The boxes of one image, or the text of one sample.

        Args:
            outputs: float32 arrays by output name, without the batch dimension.
            size: (height, width) of the network's input.

        Raises:
            InputError: the function fails, or returns neither boxes, scores and labels nor a text; names the line.
        """
        where = f"`decoder={self.file}:{self.name}`"
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        with cause_shown(where, "the decoder fails", "decoder", f"{FORM} for one picture, of outputs {shapes}; the "
                         f"size is {tuple(size)}"):
            found = self.function(dict(outputs), size)
        return found if isinstance(found, str) else _checked(found, where)


def load_decoder(text: str) -> Decoder:
    """The function that `path/to/file.py:function` names; raises InputError with the cause and the line."""
    function = function_in_file(text, "decoder")
    check_call(function, ({}, (0, 0)), f"`decoder={text}`", "decoder",
               f"{FORM}: outputs are arrays by name, of one picture")
    file, _, name = text.rpartition(":")
    return Decoder(Path(file), name, function)


def _checked(found: Any, where: str) -> Detections:
    allowed = "(boxes [M, 4], scores [M], labels [M]), or a text"
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise InputError(f"the decoder returns {type(found).__name__}", where=where, allowed=allowed, field="decoder")
    with cause_shown(where, "the decoder returns what are no arrays of numbers"):
        boxes, scores = (np.asarray(array, dtype=np.float32) for array in found[:2])
        labels = _classes(np.asarray(found[2]), where)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    count = len(boxes) if boxes.ndim else 0
    if boxes.shape != (count, 4) or scores.reshape(-1).shape != (count,) or labels.reshape(-1).shape != (count,):
        shapes = ", ".join(str(list(array.shape)) for array in (boxes, scores, labels))
        raise InputError(f"the decoder returns arrays {shapes}", where=where, allowed=allowed, field="decoder")
    return Detections(boxes, scores.reshape(-1), labels.reshape(-1))


def _classes(labels: np.ndarray, where: str) -> np.ndarray:
    """The classes as int64; raises InputError where a number is none: NaN, a fraction, too large."""
    numbers = labels.astype(np.float64)
    wrong = numbers[~((numbers == np.floor(numbers)) & (np.abs(numbers) < MOST_CLASSES))]
    if wrong.size:
        raise InputError(
            f"the decoder returns {wrong.flat[0]:g} as a class", where=where, field="decoder",
            allowed="whole numbers, classes counted from 0", hint="return `labels` as integers, one for each box",
        )
    return labels.astype(np.int64)
