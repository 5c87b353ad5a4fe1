"""Batches: a finite, seeded, re-iterable set of samples from an image folder or a numpy file.

Images are decoded when a batch is asked for, so an evaluation set of any size fits into memory; calibration, which
visits its samples thousands of times, takes them all at once with `materialize`. A pool is everything that is there; of
a folder it knows the names alone, so that one of a million images opens in seconds. Only what was drawn from it is
`checked`: everything that can be wrong is found then, but for damage inside an image, which only decoding shows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import check_memory
from isobit.pipeline.samples.arrays import Arrays
from isobit.pipeline.samples.images import Images, list_images, per_channel

Purpose = Literal["calib", "eval"]


class Samples(Protocol):
    """Samples by index, each always the same."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [N] by index, or None."""
        ...

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

    def without_labels(self) -> Samples:
        """The same samples, about which nothing is known."""
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

    `order` holds indices into `samples`; `classes` are the names of the labels where a folder gives them; `notes` say
    what of the folder was left out.
    """

    samples: Samples
    order: tuple[int, ...]
    batch_size: int
    purpose: Purpose
    path: Path
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

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
    def known_labels(self) -> Tensor:
        """`labels` of samples that were checked to have some; raises ValueError where they have none."""
        if self.labels is None:
            raise ValueError(f"the samples in {self.path} have no labels")
        return self.labels

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
        check_memory(
            4 * len(self) * math.prod(self.shape), f"{len(self):,} samples at once", str(self.path),
            "Take fewer: `recipe.images.count=256`",
        )
        x = torch.empty(len(self), *self.shape)
        for position, index in enumerate(self.order):
            x[position] = self.samples.read(index)
        return x, self.labels

    def without_labels(self) -> Batches:
        """The same samples, about which nothing is known."""
        return replace(self, samples=self.samples.without_labels(), classes=None)

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
        checked = replace(self, samples=self.samples.checked(sorted(self.order)))
        batch = min(self.batch_size, len(self)) * math.prod(checked.shape)
        check_memory(4 * batch, "one batch", str(self.path), "Give smaller samples, or `input_size`.")
        return checked

    def augmented(self, seed: int) -> Batches:
        """The same images under the training augmentation: a random resized crop and a flip, drawn once for each.

        The draw depends on `seed` and the image's name only, and torchvision's defaults hold: 8 to 100 % of the area,
        sides 3:4 to 4:3. `pixels` are not augmented. Arrays are refused with an InputError.
        """
        if not isinstance(self.samples, Images):
            raise InputError(
                "the samples of an array are prepared already: they cannot be cropped and flipped as in training",
                where=f"images.augment: train, with {self.path}", allowed="augment: eval",
                field="recipe.images.augment",
                hint="Give a folder of images, or `recipe.images.augment=eval`.",
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
    if purpose not in get_args(Purpose):
        raise InputError(f"purpose is {purpose!r}", field="purpose", allowed=" or ".join(get_args(Purpose)))
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
    classes, notes = None, ()
    if path.is_dir():
        listing = list_images(path)
        if listing.labels is None and purpose == "eval":
            raise InputError(
                "the evaluation folder has no class subfolders, so its images have no labels",
                where=str(path),
                allowed="one subfolder a class, or an .npz",
            )
        mean, std = per_channel("mean", mean, 0.0, channels), per_channel("std", std, 1.0, channels)
        if min(std) <= 0:
            raise InputError(f"`std` has a value that is not positive: {list(std)}", field="std")
        samples: Samples = Images(path, listing.files, listing.labels, channels, mean, std, input_size)
        classes, notes = listing.classes, listing.notes
    elif path.suffix.lower() in (".npz", ".npy"):
        samples = Arrays.opened(path)
    else:
        raise InputError("data of this kind cannot be read", where=str(path), allowed="an image folder, .npz or .npy")
    return Batches(samples, tuple(range(len(samples))), batch_size, purpose, path, classes, notes)


def array_batches(
    images: Tensor, labels: Tensor | None, batch_size: int, purpose: Purpose, origin: str
) -> Batches:
    """Images [N, C, H, W] in memory as `Batches`, in their order; N may be 0.

    Args:
        origin: where messages say that they are from.
    """
    channels, height, width = images.shape[1:]
    samples = Arrays(images.detach().cpu().contiguous().numpy(), labels, (channels, height, width))
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
            hint="Images are fitted with `input_size`; arrays must have the model's shape.",
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
