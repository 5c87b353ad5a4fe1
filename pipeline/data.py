"""Batches: a finite, seeded, re-iterable set of samples from an image folder or a numpy file.

Images are decoded when a batch is asked for, so an evaluation set of any size fits into memory; calibration, which
visits its samples thousands of times, takes them all at once with `materialize`. Everything that can be wrong with a
folder or a file is found when it is opened, but for damage inside an image, which only decoding shows.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import functional as F

from pipeline.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
RESIZE_RATIO = 256 / 224  # shorter side before the centre crop, as in the usual ImageNet evaluation
MODES = {1: "L", 3: "RGB"}

Purpose = Literal["calib", "eval"]


class Samples(Protocol):
    """Samples by index, each always the same."""

    shape: tuple[int, int, int]
    labels: Tensor | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """float32 [C, H, W]."""
        ...

    def content(self, index: int) -> tuple[bytes, bytes]:
        """(name, bytes) that identify the sample for the hash."""
        ...


@dataclass(frozen=True)
class Batches:
    """Samples in a fixed order, in batches; every iteration yields the same.

    `order` holds indices into `samples`; `classes` are the names of the labels where a folder gives them.
    """

    samples: Samples
    order: tuple[int, ...]
    batch_size: int
    purpose: Purpose
    path: Path
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Number of samples, not of batches."""
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yields (x float32 [N, C, H, W], y int64 [N] or None); the last batch may be smaller."""
        for start in range(0, len(self.order), self.batch_size):
            indices = self.order[start : start + self.batch_size]
            x = torch.stack([self.samples.read(index) for index in indices])
            yield x, None if self.labels is None else self.labels[start : start + len(indices)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample."""
        return self.samples.shape

    @cached_property
    def labels(self) -> Tensor | None:
        """int64 [N] in the order of iteration, or None."""
        return None if self.samples.labels is None else self.samples.labels[list(self.order)]

    @property
    def example(self) -> Tensor:
        """The first sample as a batch of one, float32 [1, C, H, W]."""
        return self.samples.read(self.order[0])[None]

    @cached_property
    def sha256(self) -> str:
        """Hash of the samples drawn, whatever their order: relative names and file bytes, or the array rows."""
        digest = hashlib.sha256()
        for index in sorted(self.order):
            for part in self.samples.content(index):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def materialize(self) -> tuple[Tensor, Tensor | None]:
        """All samples at once: (x float32 [N, C, H, W], y int64 [N] or None), in the order of iteration."""
        x = torch.empty(len(self), *self.shape)
        for position, index in enumerate(self.order):
            x[position] = self.samples.read(index)
        return x, self.labels

    def without_labels(self) -> Batches:
        """The same samples, about which nothing is known."""
        return replace(self, samples=replace(self.samples, labels=None), classes=None)

    def first(self, count: int) -> Batches:
        """The same, cut after `count` samples."""
        return replace(self, order=self.order[:count])


def open_data(
    path: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    batch_size: int,
    purpose: Purpose,
    count: int | None = None,
    seed: int = 0,
    channels: Literal[1, 3] = 3,
) -> Batches:
    """Opens an image folder, an `.npz` with `x` (and `y`), or an `.npy` with x.

    Args:
        path: folder with one subfolder a class (labels follow the alphabet), a flat folder (calibration only), or file.
        mean, std: one number a channel, for images scaled to [0, 1]; arrays are used as they are.
        input_size: side that images of another size are resized and centre-cropped to; None: all have one size.
        batch_size: samples of one batch.
        purpose: calibration draws in a random order; evaluation keeps the order of the files.
        count: how many samples to draw, without replacement; all where there are fewer.
        seed: of the draw.
        channels: 3 for RGB, 1 for grey; images of another kind are converted.

    Raises:
        InputError: what is there cannot be used; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("the data does not exist", where=str(path))
    classes = None
    if path.is_dir():
        files, labels, classes = _list_images(path, purpose)
        samples: Samples = _Images.opened(path, files, labels, channels, input_size, mean, std)
    elif path.suffix.lower() in (".npz", ".npy"):
        samples = _Arrays.opened(path)
    else:
        raise InputError("data of this kind cannot be read", where=str(path), allowed="an image folder, .npz or .npy")
    return Batches(samples, _draw(len(samples), count, seed, purpose), batch_size, purpose, path, classes)


def _draw(available: int, count: int | None, seed: int, purpose: Purpose) -> tuple[int, ...]:
    """Seeded shuffle of all indices, cut to `count`; evaluation puts what was drawn back in order."""
    if purpose == "eval" and count is None:
        return tuple(range(available))
    shuffled = torch.randperm(available, generator=torch.Generator().manual_seed(seed)).tolist()[:count]
    return tuple(shuffled if purpose == "calib" else sorted(shuffled))


def check_against_model(batches: Batches, input_shape: Sequence[int], num_classes: int | None) -> None:
    """Raises InputError where samples or labels do not fit the model.

    Args:
        batches: what the model is to run on.
        input_shape: (C, H, W) that the model takes.
        num_classes: outputs of the model; None where it is no classifier, then labels are not judged.
    """
    where = str(batches.path)
    if tuple(input_shape) != batches.shape:
        raise InputError(
            f"samples have the shape {list(batches.shape)} (channels, height, width)",
            where=where,
            allowed=f"{list(input_shape)}, the input of the model",
            hint="Images are fitted with --input-size; arrays must have the model's shape.",
        )
    if num_classes is None or batches.labels is None:
        return
    largest = int(batches.labels.max())
    if largest >= num_classes:
        raise InputError(
            f"the label {largest} is outside the model's classes",
            where=where,
            allowed=f"0 to {num_classes - 1}",
            hint="Labels count from 0; a folder's labels are the places of its subfolders in the alphabet.",
        )
    if batches.purpose == "eval" and batches.classes is not None and len(batches.classes) != num_classes:
        raise InputError(
            f"the folder has {len(batches.classes)} classes and the model {num_classes}: the labels cannot agree",
            where=where,
            hint="Keep an empty subfolder for each class without images, or give an .npz with x and y.",
        )


# --- images ---


@dataclass(frozen=True)
class _Images:
    """Image files below `root`, decoded when they are read."""

    root: Path
    files: tuple[Path, ...]
    labels: Tensor | None
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def opened(
        cls,
        root: Path,
        files: Sequence[Path],
        labels: Tensor | None,
        channels: int,
        input_size: int | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> _Images:
        """Looks at the header of every file, so that most faults show before any long work."""
        sizes = [_header_size(file) for file in files]
        if input_size is None:
            _check_one_size(files, sizes)
        width, height = (input_size, input_size) if input_size is not None else sizes[0]
        mean = _per_channel("mean", mean, 0.0, channels)
        std = _per_channel("std", std, 1.0, channels)
        if min(std) <= 0:
            raise InputError(f"--std has a value that is not positive: {list(std)}")
        return cls(root, tuple(files), labels, (channels, height, width), mean, std)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Tensor:
        file = self.files[index]
        channels, height, width = self.shape
        try:
            with Image.open(file) as opened:
                image = opened.convert(MODES[channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from error
        if image.size != (width, height):
            image = F.center_crop(F.resize(image, round(height * RESIZE_RATIO)), [height, width])
        return F.normalize(F.to_tensor(image), self.mean, self.std)

    def content(self, index: int) -> tuple[bytes, bytes]:
        file = self.files[index]
        return file.relative_to(self.root).as_posix().encode(), file.read_bytes()


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"the image cannot be read: {reason}", where=str(file), hint="Replace or remove the file.")


def _header_size(file: Path) -> tuple[int, int]:
    """(width, height) without decoding the pixels."""
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # 16 and 32 bits a pixel: PIL would clip them to 8 without a word
                raise InputError(
                    f"the image has more than 8 bits a channel (PIL mode {image.mode})",
                    where=str(file),
                    allowed="8 bits a channel",
                    hint="Convert the image, or give an .npz.",
                )
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _check_one_size(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"images have different sizes: {size[0]}x{size[1]} here, {sizes[0][0]}x{sizes[0][1]} in '{files[0]}'",
                where=str(file),
                hint="Give --input-size to resize and centre-crop all of them.",
            )


def _per_channel(option: str, values: Sequence[float] | None, default: float, channels: int) -> tuple[float, ...]:
    values = tuple(values) if values is not None else (default,) * channels
    if len(values) != channels or not np.isfinite(values).all():
        raise InputError(f"--{option} is {list(values)}", allowed=f"{channels} finite numbers, one a channel")
    return values


def _list_images(root: Path, purpose: Purpose) -> tuple[list[Path], Tensor | None, tuple[str, ...] | None]:
    """(sorted files, labels, class names) of a folder; the last two are None where it is flat."""
    flat = sorted(path for path in root.iterdir() if _is_image(path))
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    inside = [sorted(path for path in folder.rglob("*") if _is_image(path)) for folder in folders]
    files = [file for images in inside for file in images]
    if not flat and not files:
        raise InputError(
            "the folder holds no images",
            where=str(root),
            allowed=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    if flat and files:
        raise InputError(
            f"the folder holds both images and class folders: '{flat[0].name}' beside '{files[0].relative_to(root)}'",
            where=str(root),
            allowed="one subfolder a class, or images only (calibration)",
        )
    if files:
        labels = [label for label, images in enumerate(inside) for _ in images]
        return files, torch.tensor(labels, dtype=torch.int64), tuple(folder.name for folder in folders)
    if purpose == "eval":
        raise InputError(
            "the evaluation folder has no class subfolders, so its images have no labels",
            where=str(root),
            allowed="one subfolder a class, or an .npz",
        )
    return flat, None, None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


# --- arrays ---


@dataclass(frozen=True)
class _Arrays:
    """Samples of a numpy array [N, C, H, W]; an `.npy` stays on disk."""

    x: np.ndarray
    labels: Tensor | None
    shape: tuple[int, int, int]

    @classmethod
    def opened(cls, path: Path) -> _Arrays:
        x, y = _read_arrays(path)
        where = str(path)
        if x.ndim != 4:
            raise InputError(
                f"x has {x.ndim} dimensions: {list(x.shape)}", where=where, allowed="[samples, channels, height, width]"
            )
        if 0 in x.shape:
            raise InputError(f"x is empty: {list(x.shape)}", where=where)
        if not np.issubdtype(x.dtype, np.floating):
            raise InputError(
                f"x holds {x.dtype}",
                where=where,
                allowed="float32, scaled and normalised as the model was trained",
            )
        for index, sample in enumerate(x):
            if not np.isfinite(_as_float32(sample)).all():
                raise InputError(f"x has NaN or infinite values, first in sample {index}", where=where)
        return cls(x, None if y is None else _checked_labels(y, len(x), where), tuple(x.shape[1:]))

    def __len__(self) -> int:
        return len(self.x)

    def read(self, index: int) -> Tensor:
        return torch.from_numpy(_as_float32(self.x[index]))

    def content(self, index: int) -> tuple[bytes, bytes]:
        label = b"" if self.labels is None else int(self.labels[index]).to_bytes(8, "little")
        return label, _as_float32(self.x[index]).tobytes()


def _as_float32(sample: np.ndarray) -> np.ndarray:
    """A float32 copy that owns its memory; values too large for float32 become infinite and are refused."""
    with np.errstate(over="ignore"):
        return np.array(sample, dtype=np.float32, order="C")


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        # Opened here, because numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "x" not in archive:
                found = ", ".join(archive.files) or "nothing"
                raise InputError(
                    f"the archive has no array 'x', it holds {found}", where=str(path), allowed="x (and y)"
                )
            return archive["x"], archive.get("y")
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the numpy file is truncated, corrupt or of another kind: {reason}", where=str(path)
        ) from error


def _checked_labels(y: np.ndarray, samples: int, where: str) -> Tensor:
    if y.ndim != 1:
        hint = "For one-hot labels store y.argmax(1)." if y.ndim == 2 else ""
        raise InputError(f"y has the shape {list(y.shape)}", where=where, allowed="[samples]", hint=hint)
    if len(y) != samples:
        raise InputError(f"y has {len(y)} labels for {samples} samples in x", where=where)
    if not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"labels in y are {y.dtype}, not integers", where=where, allowed="int64, counted from 0")
    if y.min() < 0:
        raise InputError(f"y has the negative label {y.min()}", where=where, allowed="integers from 0")
    return torch.from_numpy(y.astype(np.int64))
