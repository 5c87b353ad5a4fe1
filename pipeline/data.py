"""Batches: a finite, seeded, re-iterable set of samples from an image folder or a numpy file.

Images are decoded when a batch is asked for, so an evaluation set of any size fits into memory; calibration, which
visits its samples thousands of times, takes them all at once with `materialize`. A pool is everything that is there; of
a folder it knows the names alone, so that one of a million images opens in seconds. Only what was drawn from it is
`checked`: everything that can be wrong is found then, but for damage inside an image, which only decoding shows.
"""

from __future__ import annotations

import hashlib
import os
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
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop
from torchvision.transforms import functional as F

from pipeline.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
RESIZE_RATIO = 256 / 224  # shorter side before the centre crop, as in the usual ImageNet evaluation
MODES = {1: "L", 3: "RGB"}

Purpose = Literal["calib", "eval"]


class Samples(Protocol):
    """Samples by index, each always the same."""

    labels: Tensor | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Lowest and highest value that `pixels` may give."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """float32 [C, H, W] as the model takes it."""
        ...

    def pixels(self, index: int) -> Tensor:
        """float32 [C, H, W] of the same shape before normalisation, and never augmented; arrays as they are stored."""
        ...

    def content(self, index: int) -> tuple[bytes, bytes]:
        """(name, bytes) that identify the sample for the hash."""
        ...

    def checked(self, indices: Sequence[int]) -> Samples:
        """Themselves, where these samples can be used together; raises InputError where one cannot."""
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
        """Hash of the samples drawn, whatever their order: array rows, or relative names, file bytes and preparation.

        Preparation is the size, the normalisation and the augmentation: with another one they are other samples.
        """
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

    def pixels(self, place: int) -> Tensor:
        """The sample at `place` of the order before normalisation, float32 [C, H, W]; see `Samples.pixels`."""
        return self.samples.pixels(self.order[place])

    def select(self, places: Sequence[int]) -> Batches:
        """The samples at these places of the order, in the order of `places`."""
        return replace(self, order=tuple(self.order[place] for place in places))

    def checked(self) -> Batches:
        """The same, after a look at every sample but not at its pixels; raises InputError and names the file."""
        return replace(self, samples=self.samples.checked(sorted(self.order)))

    def augmented(self, seed: int) -> Batches:
        """The same images under the training augmentation: a random resized crop and a flip, drawn once for each.

        The draw depends on `seed` and the image's name only, and torchvision's defaults hold: 8 to 100 % of the area,
        sides 3:4 to 4:3. `pixels` are not augmented. Arrays are refused with an InputError.
        """
        if not isinstance(self.samples, _Images):
            raise InputError(
                "the samples of an array are prepared already: they cannot be cropped and flipped as in training",
                where=f"images.augment: train, with {self.path}", allowed="augment: eval",
                hint="Give a folder of images, or --set images.augment=eval.",
            )
        return replace(self, samples=replace(self.samples, augment_seed=seed))


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
    """Opens an image folder, an `.npz` with `x` (and `y`), or an `.npy` with x, and checks what it draws.

    Args:
        path, mean, std, input_size, batch_size, channels: see `open_pool`.
        purpose: calibration draws in a random order; evaluation keeps the order of the files.
        count: how many samples to draw, without replacement; all where there are fewer.
        seed: of the draw.

    Raises:
        InputError: what is there cannot be used; the message names the file.
    """
    batches = open_pool(
        path, mean=mean, std=std, input_size=input_size, batch_size=batch_size, purpose=purpose, channels=channels
    )
    if purpose == "calib" or count is not None:
        drawn = shuffled(len(batches), count, seed)
        batches = batches.select(drawn if purpose == "calib" else sorted(drawn))
    return batches.checked()


def open_pool(
    path: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    batch_size: int,
    purpose: Purpose,
    channels: Literal[1, 3] = 3,
) -> Batches:
    """Everything that is there, in the order of the files; of a folder only names are read. See `Batches.checked`.

    Args:
        path: folder with one subfolder a class (labels follow the alphabet), a flat folder (calibration only), or file.
        mean, std: one number a channel, for images scaled to [0, 1]; arrays are used as they are.
        input_size: side that images of another size are resized and centre-cropped to; None: all have one size.
        batch_size: samples of one batch.
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
        mean, std = _per_channel("mean", mean, 0.0, channels), _per_channel("std", std, 1.0, channels)
        if min(std) <= 0:
            raise InputError(f"--std has a value that is not positive: {list(std)}")
        samples: Samples = _Images(path, tuple(files), labels, channels, mean, std, input_size)
    elif path.suffix.lower() in (".npz", ".npy"):
        samples = _Arrays.opened(path)
    else:
        raise InputError("data of this kind cannot be read", where=str(path), allowed="an image folder, .npz or .npy")
    return Batches(samples, tuple(range(len(samples))), batch_size, purpose, path, classes)


def array_batches(
    images: Tensor, labels: Tensor | None, batch_size: int, purpose: Purpose, origin: str
) -> Batches:
    """Images [N, C, H, W] in memory as `Batches`, in their order; N may be 0.

    Args:
        origin: where messages say that they are from.
    """
    samples = _Arrays(images.detach().cpu().contiguous().numpy(), labels, tuple(images.shape[1:]))
    return Batches(samples, tuple(range(len(images))), batch_size, purpose, Path(origin))


def shuffled(available: int, count: int | None, seed: int) -> list[int]:
    """The numbers below `available` in a random order, cut to `count`: a draw without replacement."""
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed)).tolist()[:count]


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
    """Image files below `root`, decoded when they are read.

    Args:
        files: relative to `root`, with `/` between folders, as text because there may be a million of them.
        input_size: side of the square that they are brought to; None where all have one size.
        common: (width, height) of all where `input_size` is None, as `checked` found it; before, that of the first.
        augment_seed: of the training augmentation; None for the deterministic resize and centre crop.
    """

    root: Path
    files: tuple[str, ...]
    labels: Tensor | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int | None
    common: tuple[int, int] | None = None
    augment_seed: int | None = None

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        if self.input_size is not None:
            return self.channels, self.input_size, self.input_size
        width, height = self.common or _header_size(self.root / self.files[0])
        return self.channels, height, width

    @property
    def pixel_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def checked(self, indices: Sequence[int]) -> _Images:
        """Looks at the headers, so that most faults show before any long work."""
        files = [self.root / self.files[index] for index in indices]
        sizes = [_header_size(file) for file in files]
        if self.input_size is not None:
            return self
        for file, size in zip(files, sizes, strict=True):
            _check_same_size(file, size, files[0], sizes[0])
        return replace(self, common=sizes[0])

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Tensor:
        image = self._decoded(index)
        image = self._fitted(image) if self.augment_seed is None else self._augmented(image, index)
        return F.normalize(F.to_tensor(image), self.mean, self.std)

    def pixels(self, index: int) -> Tensor:
        return F.to_tensor(self._fitted(self._decoded(index)))

    def _decoded(self, index: int) -> Image.Image:
        file = self.root / self.files[index]
        try:
            with Image.open(file) as opened:
                image = opened.convert(MODES[self.channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from error
        if self.input_size is None:
            _, height, width = self.shape
            _check_same_size(file, image.size, self.root / self.files[0], (width, height))
        return image

    def _fitted(self, image: Image.Image) -> Image.Image:
        _, height, width = self.shape
        if image.size == (width, height):
            return image
        return F.center_crop(F.resize(image, round(height * RESIZE_RATIO)), [height, width])

    def _augmented(self, image: Image.Image, index: int) -> Image.Image:
        """The image's own draw: torchvision takes it from the global generator, which is put back afterwards."""
        digest = hashlib.sha256(f"{self.augment_seed}:{self.files[index]}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            return RandomHorizontalFlip()(RandomResizedCrop(self.shape[1:])(image))

    def content(self, index: int) -> tuple[bytes, bytes]:
        file = self.files[index]
        prepared = (self.channels, self.input_size, self.mean, self.std, self.augment_seed)
        return f"{file}\0{prepared}".encode(), (self.root / file).read_bytes()


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


def _check_same_size(file: Path, size: tuple[int, int], other: Path, expected: tuple[int, int]) -> None:
    if size != expected:
        raise InputError(
            f"images have different sizes: {size[0]}x{size[1]} here, {expected[0]}x{expected[1]} in '{other}'",
            where=str(file),
            hint="Give --input-size to resize and centre-crop all of them.",
        )


def _per_channel(option: str, values: Sequence[float] | None, default: float, channels: int) -> tuple[float, ...]:
    values = tuple(values) if values is not None else (default,) * channels
    if len(values) != channels or not np.isfinite(values).all():
        raise InputError(f"--{option} is {list(values)}", allowed=f"{channels} finite numbers, one a channel")
    return values


def _list_images(root: Path, purpose: Purpose) -> tuple[list[str], Tensor | None, tuple[str, ...] | None]:
    """(sorted files relative to `root`, labels, class names); the last two are None where the folder is flat."""
    try:
        with os.scandir(root) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        flat = [entry.name for entry in found if _is_image(entry)]
        folders = [entry for entry in found if entry.is_dir() and not entry.name.startswith(".")]
        inside = [sorted(_images_below(folder.path), key=lambda name: name.split("/")) for folder in folders]
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror}", where=str(error.filename or root)) from error
    files = [f"{folder.name}/{name}" for folder, names in zip(folders, inside, strict=True) for name in names]
    if not flat and not files:
        raise InputError(
            "the folder holds no images",
            where=str(root),
            allowed=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    if flat and files:
        raise InputError(
            f"the folder holds both images and class folders: '{flat[0]}' beside '{files[0]}'",
            where=str(root),
            allowed="one subfolder a class, or images only (calibration)",
        )
    if files:
        labels = [label for label, names in enumerate(inside) for _ in names]
        return files, torch.tensor(labels, dtype=torch.int64), tuple(folder.name for folder in folders)
    if purpose == "eval":
        raise InputError(
            "the evaluation folder has no class subfolders, so its images have no labels",
            where=str(root),
            allowed="one subfolder a class, or an .npz",
        )
    return flat, None, None


def _images_below(folder: str) -> Iterator[str]:
    """Names of the image files at any depth, relative to `folder`; the listing tells what they are, none is touched."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                yield entry.name
            elif entry.is_dir(follow_symlinks=False):
                yield from (f"{entry.name}/{name}" for name in _images_below(entry.path))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return has_image_name(entry.name) and entry.is_file()


def has_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, and not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


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

    @cached_property
    def pixel_range(self) -> tuple[float, float]:
        return float(self.x.min()), float(self.x.max())

    def checked(self, indices: Sequence[int]) -> _Arrays:
        return self  # all of it when it was opened

    def __len__(self) -> int:
        return len(self.x)

    def read(self, index: int) -> Tensor:
        return torch.from_numpy(_as_float32(self.x[index]))

    def pixels(self, index: int) -> Tensor:
        return self.read(index)

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
