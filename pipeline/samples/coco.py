"""Pictures with boxes: a COCO annotation file, its pictures as samples, and its boxes in pixels of the network's input.

The file is JSON with `images` (`id`, `file_name`, mostly `width` and `height`), `annotations` (`image_id`,
`category_id`, `bbox` as x, y, width, height in pixels of the picture, perhaps `iscrowd`) and `categories` (`id`,
`name`). Classes count from 0 in the order of `categories`. A picture without boxes is a sample as well. Boxes follow
their picture through resize and crop: they are clipped to the input, and those of which nothing is left are dropped.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import check_memory
from isobit.pipeline.samples.arrays import Targets
from isobit.pipeline.samples.classes import Classes, numbers_of
from isobit.pipeline.samples.images import Images, header_size
from isobit.pipeline.samples.numpy_files import regular_file
from isobit.pipeline.samples.preparation import ImagePreparation, cut_from, resized_to

SUFFIX = ".json"
UNPACKED = 12  # bytes of memory for a byte of JSON, about
LARGEST_SIDE = 1 << 20
SHOWN = 8  # classes that a note names, ids that an error names
PREFIX = "instances_"  # of COCO's own files: instances_val2017.json has the pictures of val2017/


@dataclass(frozen=True)
class PictureBoxes:
    """What is annotated in one picture.

    Args:
        size: (width, height) of the picture as the file states it; None where it does not.
        boxes: float64 [M, 4], x1 y1 x2 y2 in pixels of the picture.
        labels: int64 [M], classes from 0.
        crowds: int64 [M], 1 for a box of several things that nobody took apart.
    """

    size: tuple[int, int] | None
    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says.

    Args:
        root: the folder of the pictures.
        files: relative to `root`, in the order of the file.
        found: of each picture.
        classes: their names, by number.
        notes: what was read, and what was left out.
    """

    root: Path
    files: tuple[str, ...]
    found: tuple[PictureBoxes, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnnotatedImages(Images):
    """Image files with the boxes of each; `labels` are None, for a picture may show several classes."""

    found: tuple[PictureBoxes, ...] = ()

    @property
    def targets(self) -> list[dict[str, np.ndarray]] | None:
        """For each picture `boxes` float32 [M, 4] (x1 y1 x2 y2, pixels of the input), `labels` and `iscrowd` [M]."""
        return self._targets if self.found else None

    @cached_property
    def _targets(self) -> list[dict[str, np.ndarray]]:
        return [self._target(index) for index in range(len(self.files))]

    def _target(self, index: int) -> dict[str, np.ndarray]:
        known = self.found[index]
        boxes = in_input(known.boxes, self.preparation, known.size or header_size(self.root / self.files[index]))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return {"boxes": boxes[kept].astype(np.float32), "labels": known.labels[kept], "iscrowd": known.crowds[kept]}

    def checked(self, indices: Sequence[int]) -> Images:
        """As for `Images`; raises InputError also where a picture has another size than its annotation says."""
        for index in indices if self.found else ():
            file, stated = self.root / self.files[index], self.found[index].size
            if stated is not None and (real := header_size(file, self.steps)) != stated:
                raise InputError(
                    f"the picture has {real[0]}x{real[1]} pixels, and its annotation says {stated[0]}x{stated[1]}: "
                    "where its boxes lie is not known", where=str(file),
                    hint="Annotate the picture as it is, or give the one that was annotated.",
                )
        return super().checked(indices)

    def without_labels(self) -> AnnotatedImages:
        return AnnotatedImages(self.root, self.files, None, self.steps, self.augment_seed)

    def content(self, index: int) -> tuple[bytes, bytes]:
        name, picture = super().content(index)
        if not self.found:
            return name, picture
        known = self.found[index]
        return name, picture + known.boxes.tobytes() + known.labels.tobytes() + known.crowds.tobytes()


def in_input(boxes: np.ndarray, preparation: ImagePreparation, size: tuple[int, int]) -> np.ndarray:
    """Boxes in pixels of a picture as pixels of the input, clipped to it: the way back is `preparation.in_picture`.

    Args:
        boxes: [M, 4] as x1 y1 x2 y2.
        size: (width, height) of the picture.
    """
    scaled = resized_to(preparation, size)
    left, top = cut_from(preparation, scaled)
    factors = np.array([scaled[0] / size[0], scaled[1] / size[1]] * 2)
    found = np.asarray(boxes, np.float64).reshape(-1, 4) * factors - (left, top) * 2
    return np.clip(found, 0, (preparation.width, preparation.height) * 2)


def box_classes(targets: Targets | None) -> list[list[int]] | None:
    """The classes of the boxes of each sample, rising; None where targets are no boxes."""
    if not isinstance(targets, list) or not all(isinstance(of, Mapping) and "labels" in of for of in targets):
        return None
    return [np.unique(np.asarray(of["labels"])).tolist() for of in targets]


def is_annotations(path: Path) -> bool:
    """Whether data is given as an annotation file, by its name."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def read_annotations(path: Path, folder: Path | None = None, known: Classes | None = None) -> Annotations:
    """What an annotation file says; no picture is opened.

    Args:
        folder: of the pictures; None looks beside the file.
        known: the model's classes, which the names of the categories mean; None takes the categories' own order.

    Raises:
        InputError: it is no such file, lacks something, or says what cannot be; names the entry.
    """
    where = str(path)
    content = _content(path, where)
    categories = _entries(content, "categories", ("id", "name"), where)
    images = _entries(content, "images", ("id", "file_name"), where)
    names = [_text(entry["name"], "the name of a category", where) for entry in categories]
    if not images:
        raise InputError("the annotation file lists no images", where=where)
    if len(set(names)) < len(names):
        raise InputError("two categories have the same name", where=where)
    numbers = range(len(names)) if known is None else numbers_of(names, known, where, "category")
    by_id = dict(zip(_ids(categories, "categories", where), numbers, strict=True))
    files = tuple(_file(entry["file_name"], where) for entry in images)
    sizes = [_size(entry, where) for entry in images]
    places = {key: place for place, key in enumerate(_ids(images, "images", where))}
    rows, empty = _rows(content, places, by_id, where)
    found = tuple(_picture(size, of) for size, of in zip(sizes, rows, strict=True))
    classes = tuple(names) if known is None else known.lines
    notes: tuple[str, ...] = (_read(path, found, classes),)
    notes += (f"{empty} box(es) in '{path}' have no area and are left out",) if empty else ()
    return Annotations(_root(path, folder, files[0]), files, found, classes, notes)


def _read(path: Path, found: Sequence[PictureBoxes], classes: Sequence[str]) -> str:
    """What was read, in a line."""
    boxes, crowds = (sum(int(count(of)) for of in found) for count in (lambda of: len(of.boxes),
                                                                       lambda of: of.crowds.sum()))
    names = [f"{name} {number}" for number, name in enumerate(classes)]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    bare = sum(not len(of.boxes) for of in found)
    return (f"'{path}' has {len(found):,} pictures, {boxes:,} boxes of {len(names)} classes ({shown}), {crowds:,} "
            f"crowds, {bare:,} pictures without boxes")


def _content(path: Path, where: str) -> Mapping[str, Any]:
    try:
        with regular_file(path) as file:
            check_memory(UNPACKED * path.stat().st_size, "an annotation file", where, "Split it.")
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"the annotation file cannot be read as JSON: {reason}", where=where) from error
    if not isinstance(content, dict):
        raise InputError(f"the annotation file holds a {type(content).__name__}", where=where,
                         allowed="a COCO file: {images: [...], annotations: [...], categories: [...]}")
    return content


def _entries(content: Mapping[str, Any], key: str, needed: Sequence[str], where: str) -> list[dict[str, Any]]:
    """The objects under `key`, each with the keys that it needs."""
    found = content.get(key)
    if not isinstance(found, list):
        raise InputError(f"the annotation file has no list '{key}'", where=where,
                         allowed="a COCO file: {images: [...], annotations: [...], categories: [...]}")
    for place, entry in enumerate(found):
        lacking = [name for name in needed if not isinstance(entry, dict) or name not in entry]
        if lacking:
            raise InputError(f"{key}[{place}] has no '{lacking[0]}'", where=where, allowed=", ".join(needed))
    return found


def _ids(entries: Sequence[Mapping[str, Any]], key: str, where: str) -> list[int | str]:
    found: list[int | str] = []
    for entry in entries:
        if not isinstance(entry["id"], int | str) or isinstance(entry["id"], bool):
            raise InputError(f"an id in {key} is {type(entry['id']).__name__}", where=where, allowed="a whole number")
        found.append(entry["id"])
    if len(set(found)) < len(found):
        raise InputError(f"{key} has the id {_shown(Counter(found).most_common(1)[0][0])} twice", where=where)
    return found


def _rows(
    content: Mapping[str, Any], places: Mapping[Any, int], by_id: Mapping[Any, int], where: str
) -> tuple[list[list[tuple[float, ...]]], int]:
    """(of each picture its boxes as x1, y1, x2, y2, class, crowd; how many boxes without an area were left out)."""
    rows: list[list[tuple[float, ...]]] = [[] for _ in places]
    empty = 0
    for place, entry in enumerate(_entries(content, "annotations", ("image_id", "category_id", "bbox"), where)):
        here = f"annotations[{place}]"
        image = _known(entry["image_id"], places, "images", f"{here}.image_id", where)
        category = _known(entry["category_id"], by_id, "categories", f"{here}.category_id", where)
        left, top, width, height = _box(entry["bbox"], here, where)
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise InputError(f"{here}.iscrowd is {_shown(crowd)}", where=where, allowed="0 or 1")
        if width == 0 or height == 0:
            empty += 1
            continue
        rows[image].append((left, top, left + width, top + height, category, int(crowd)))
    return rows, empty


def _known(key: Any, among: Mapping[Any, int], of: str, what: str, where: str) -> int:
    """The number of what has the id `key` in the list `of`; `what` is the key, as messages say it."""
    if not isinstance(key, int | str) or isinstance(key, bool) or key not in among:
        some = ", ".join(_shown(known) for known in list(among)[:SHOWN])
        more = f" and {len(among) - SHOWN} more" if len(among) > SHOWN else ""
        raise InputError(
            f"{what} is {_shown(key)}, and there is none with this id", where=where,
            allowed=f"the ids of '{of}': {some}{more}" if among else f"nothing: '{of}' is empty",
            hint=f"Add it to '{of}', or leave the annotation out.",
        )
    return among[key]


def _box(box: Any, here: str, where: str) -> tuple[float, float, float, float]:
    try:
        if not isinstance(box, list) or any(isinstance(value, bool) or not isinstance(value, int | float)
                                            for value in box):
            raise TypeError
        left, top, width, height = map(float, box)
        ends = (left, top, width, height, left + width, top + height)
        if not all(map(math.isfinite, ends)) or min(width, height) < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{here}.bbox is {_shown(box)}", where=where,
            allowed="[x, y, width, height] in pixels of the picture, finite, no side below 0",
        ) from None
    return left, top, width, height


def _picture(size: tuple[int, int] | None, rows: Sequence[tuple[float, ...]]) -> PictureBoxes:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return PictureBoxes(size, table[:, :4], table[:, 4].astype(np.int64), table[:, 5].astype(np.int64))


def _size(entry: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    stated = entry.get("width"), entry.get("height")
    if None in stated:
        return None
    width, height = (value if type(value) is int and 0 < value <= LARGEST_SIDE else 0 for value in stated)
    if not width or not height:
        raise InputError(f"an image has the size {_shown(list(stated))}", where=where,
                         allowed=f"width and height as whole numbers from 1 to {LARGEST_SIDE:,}")
    return width, height


def _text(value: Any, what: str, where: str) -> str:
    """A text that can be written and shown: JSON may hold halves of characters, and what moves a terminal's cursor."""
    try:
        if not isinstance(value, str) or not value.strip() or any(unicodedata.category(one) == "Cc" for one in value):
            raise ValueError
        value.encode()
    except ValueError:
        raise InputError(f"{what} is {_shown(value)}", where=where, allowed="a text") from None
    return value


def _file(value: Any, where: str) -> str:
    name = _text(value, "a file_name", where)
    outside = any(of(name).is_absolute() or of(name).drive or ".." in of(name).parts
                  for of in (PurePosixPath, PureWindowsPath))
    if outside:
        raise InputError(f"a file_name leads out of the folder of pictures: {_shown(name)}", where=where,
                         allowed="names relative to it")
    return name


def _root(path: Path, folder: Path | None, first: str) -> Path:
    """The folder of the pictures: the one that has the first of them."""
    stems = dict.fromkeys((path.stem, path.stem.removeprefix(PREFIX)))
    bases = (path.parent, path.resolve().parent.parent) if folder is None else (folder,)
    places = [place for base in bases for place in (
        *(base / stem for stem in stems), base, *(base / "images" / stem for stem in stems), base / "images")]
    for place in places:
        if os.path.isfile(place / first):  # pathlib raises where the name is too long
            return place
    raise InputError(
        f"the picture {_shown(first)} of the annotation file is not found", where=str(path), field="pictures",
        allowed=f"a folder '{path.stem}' beside the file, or a folder that is named by `pictures`",
    )


def _shown(value: Any) -> str:
    """A value of the file for a message, cut short."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # a number of many thousand digits
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
