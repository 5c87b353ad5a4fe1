"""The common part of every `predict.py`: a picture in, the classes or boxes or numbers that the network finds out.

Shipped inside each target's script (see `backends.device.standalone`): numpy and pillow only, and the syntax of Python
3.8.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from isobit.pipeline.artifact.digest import DECODER, MANIFEST
from isobit.pipeline.samples.preparation import ImagePreparation, as_input, in_picture

RECORD = "preprocessing"  # of the manifest
TOP = 5
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")

Infer = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def read_record(folder: Path) -> dict[str, Any]:
    """How a picture becomes the input, and what the classes are called, as the build wrote it."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[RECORD]


def steps_of(record: Mapping[str, Any]) -> ImagePreparation:
    """The steps from a picture to the input."""
    return ImagePreparation(**{name: record[name] for name in ImagePreparation.__dataclass_fields__})


def open_picture(path: Path) -> Image.Image:
    """The picture; raises ValueError where its values are no bytes, which would be cut off without a word."""
    with Image.open(path) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"{path} has more than 8 bits a channel (mode {image.mode})")
        image.load()
        return image


def top_classes(scores: np.ndarray, names: list[str] | None) -> list[str]:
    """The classes with the largest scores, one a line.

    Args:
        scores: [C].
        names: of the classes; None where nobody gave any.
    """
    order = np.argsort(-scores, kind="stable")[:TOP]
    return [f"{scores[i]:10.4f}  {i:5d}  {names[i] if names else ''}".rstrip() for i in order]


def described(outputs: Mapping[str, np.ndarray]) -> list[str]:
    """Shape and range of each output, one a line."""
    lines = []
    for name, array in outputs.items():
        size = "x".join(map(str, array.shape))
        lines.append(f"{name}: {size}, least {array.min():.6g}, mean {array.mean():.6g}, most {array.max():.6g}")
    return lines


def is_classifier(outputs: Mapping[str, np.ndarray], names: list[str] | None) -> bool:
    """One output with one number for each class."""
    if len(outputs) != 1:
        return False
    (only,) = outputs.values()
    return only.ndim == 2 and only.shape[1] == (len(names) if names else only.shape[1]) > 1


def found_boxes(
    folder: Path, function: str, outputs: Mapping[str, np.ndarray], steps: ImagePreparation
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """What the artifact's decoder finds in one image: boxes [M, 4] in pixels of the input, scores [M], labels [M], or
    a text.
    """
    decode = getattr(imported(folder / DECODER), function)
    found = decode({name: array[0] for name, array in outputs.items()}, (steps.height, steps.width))
    if isinstance(found, str):
        return found
    boxes, scores, labels = found
    return np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores).reshape(-1), np.asarray(labels).reshape(-1)


def imported(path: Path) -> ModuleType:
    """The module of a source file. Its import would leave a `__pycache__` in the artifact, or run one that lies there
    in the place of the file that was certified.
    """
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module  # where dataclasses look
    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    return module


def free_name(path: Path, out: Path) -> Path:
    """A file in the folder `out` for a drawing of `path`, which no file has yet."""
    drawn, number = out / (path.stem + ".boxes.jpg"), 2
    while drawn.exists():
        drawn, number = out / f"{path.stem}.boxes-{number}.jpg", number + 1
    return drawn.resolve()


def letters(size: tuple[int, int]) -> Any:
    """The font for a picture of this (width, height); the small one of old versions of pillow, which have no other."""
    try:
        return ImageFont.load_default(max(7, round(min(size) / 30)))
    except TypeError:
        return ImageFont.load_default()


def label_place(box: list[float], text: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float]:
    """Where a text stands outside its box: above it, or below where no room is above; in the picture in any case.

    Args:
        text: left, top, right and bottom of what is written at (0, 0).
        size: (width, height) of the picture.
    """
    top = box[1] - text[3] - 1
    if top + text[1] < 0:
        top = box[3] + 2 - text[1]
    return max(0, min(box[0], size[0] - text[2])), max(0, min(top, size[1] - text[3]))


def draw(image: Image.Image, boxes: np.ndarray, labels: np.ndarray, texts: list[str]) -> Image.Image:
    """The picture with a frame and a text for each box, [M, 4] in its own pixels."""
    picture = image.convert("RGB")
    pen, width, font = ImageDraw.Draw(picture), max(1, round(min(picture.size) / 200)), letters(picture.size)
    for box, label, text in zip(boxes.tolist(), labels.tolist(), texts):  # noqa: B905 (Python 3.8)
        color = COLORS[int(label) % len(COLORS)]
        pen.rectangle(box, outline=color, width=width)
        place = label_place(box, pen.textbbox((0, 0), text, font=font), picture.size)
        pen.rectangle(pen.textbbox(place, text, font=font), fill=color)
        pen.text(place, text, fill="white" if sum(ImageColor.getrgb(color)) < 480 else "black", font=font)
    return picture


def show(folder: Path, path: Path, record: Mapping[str, Any], outputs: Mapping[str, np.ndarray], least: float,
         out: Path) -> None:
    """Print what the network finds in the picture at `path`; boxes are drawn into a copy of it in the folder `out`."""
    steps, names, function = steps_of(record), record.get("classes"), record.get("decoder")
    if function is None:
        lines = top_classes(next(iter(outputs.values()))[0], names) if is_classifier(outputs, names) else None
        print("\n".join(lines if lines is not None else described(outputs)))
        return
    image = open_picture(path)
    found = found_boxes(folder, function, outputs, steps)
    if isinstance(found, str):
        print(found)
        return
    boxes, scores, labels = found
    kept = np.flatnonzero(scores >= least)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    boxes, scores, labels = in_picture(boxes[kept], steps, image.size), scores[kept], labels[kept].astype(np.int64)
    titles = [names[i] if names and 0 <= i < len(names) else str(i) for i in labels.tolist()]
    texts = [f"{title} {score:.2f}" for title, score in zip(titles, scores.tolist())]  # noqa: B905 (Python 3.8)
    for box, text in zip(boxes.tolist(), texts):  # noqa: B905 (Python 3.8)
        print(" ".join(f"{value:8.1f}" for value in box) + "  " + text)
    if not texts:
        best = f", the best has {found[1].max():.2f}" if found[1].size else ""
        print(f"0 boxes with a score of {least:g} or more{best}: nothing is drawn")
        return
    drawn = free_name(path, out)
    draw(image, boxes, labels, texts).save(str(drawn), quality=95)
    print(f"{len(boxes)} boxes with a score of {least:g} or more, drawn into {drawn}")


def predict(open_model: Callable[[Path, str], Infer]) -> int:
    """Read the pictures named on the command line and show what the network finds; 1 where one cannot be read.

    Args:
        open_model: the network of the artifact in this folder, whose input has this name: x float32 [1, ...] to its
            outputs [1, ...] by name.
    """
    parser = argparse.ArgumentParser(description="what the network of this artifact finds in pictures")
    parser.add_argument("image", type=Path, nargs="+", help="the pictures")
    parser.add_argument("--score", type=float, default=0.5, help="least score of a box that is shown, default 0.5")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder of the drawings, default .")
    given, folder = parser.parse_args(), Path(__file__).resolve().parent
    infer, status = None, 0
    for path in given.image:
        try:
            record = read_record(folder)
            values = as_input(open_picture(path), steps_of(record))[None]
            infer = infer or open_model(folder, record["input"])
            if len(given.image) > 1:
                print(f"{path}:")
            given.out.mkdir(parents=True, exist_ok=True)
            show(folder, path, record, infer(values), given.score, given.out)
        except (OSError, ValueError, KeyError, ImportError, Image.DecompressionBombError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            status = 1
    return status
