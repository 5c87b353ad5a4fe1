"""Batches: a finite, seeded, re-iterable set of samples from an image folder, a numpy file or a user's function.

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
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from isobit.pipeline.errors import InputError, nearest_path
from isobit.pipeline.memory import check_memory
from isobit.pipeline.samples.arrays import Arrays, Targets, WantedInputs
from isobit.pipeline.samples.classes import numbers_of, read_classes
from isobit.pipeline.samples.coco import AnnotatedImages, box_classes, is_annotations, read_annotations
from isobit.pipeline.samples.images import Images, image_steps, list_images
from isobit.pipeline.samples.network_inputs import Inputs, grouped, on_device, tensors
from isobit.pipeline.samples.preparation import ImagePreparation

Purpose = Literal["calib", "eval"]


class Samples(Protocol):
    """Samples by index, each always the same."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [N] by index where the targets are classes, or None."""
        ...

    @property
    def targets(self) -> Targets | None:
        """What each sample should give, by index: a tensor [N, ...], a list of N things, or None."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of several inputs; nothing where there is one, which serves whatever the model calls it."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one sample of each input."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the first input, (C, H, W) of images."""
        ...

    @property
    def preparation(self) -> ImagePreparation | None:
        """How image files become samples; None of what are none."""
        ...

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Lowest and highest value that `pixels` may give."""
        ...

    def __len__(self) -> int: ...

    def ordered(self, names: Sequence[str]) -> Samples:
        """The same with several inputs in the order of `names`; raises InputError where one is not there."""
        ...

    def read(self, index: int) -> Inputs:
        """One sample as the model takes it, without a batch dimension: float32, or the integers that are stored."""
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

    Args:
        order: indices into `samples`.
        classes: names of the labels, where a folder or a file of classes gives them.
        all_classes: `classes` are those of the model, of which a folder may hold some.
        notes: what of the folder was left out.
    """

    samples: Samples
    order: tuple[int, ...]
    batch_size: int
    purpose: Purpose
    path: Path
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    all_classes: bool = False

    def __repr__(self) -> str:
        shapes = ", ".join(str(list(shape)) for shape in self.shapes)
        return f"Batches({len(self):,} samples of {shapes} from '{self.path}', {self.purpose})"

    def __len__(self) -> int:
        """Number of samples, not of batches."""
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Inputs, Targets | None]]:
        """Yields (x [N, ...], or a tuple of such; the targets of these samples or None); the last may be smaller."""
        for start in range(0, len(self.order), self.batch_size):
            indices = self.order[start : start + self.batch_size]
            columns = zip(*(tensors(self.samples.read(index)) for index in indices), strict=True)
            x = grouped([torch.stack(column) for column in columns])
            yield x, None if self.targets is None else self.targets[start : start + len(indices)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample of the first input: (C, H, W) of images."""
        return self.samples.shape

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of one sample, input by input."""
        return self.samples.shapes

    @property
    def preparation(self) -> ImagePreparation | None:
        """How image files become samples; None of arrays."""
        return self.samples.preparation

    def ordered(self, names: Sequence[str]) -> Batches:
        """The same with several inputs in the order of `names`, the model's; raises InputError where one is missing."""
        return replace(self, samples=self.samples.ordered(names))

    @cached_property
    def labels(self) -> Tensor | None:
        """int64 [N] in the order of iteration where the targets are classes, or None."""
        return None if self.samples.labels is None else self.samples.labels[list(self.order)]

    @cached_property
    def targets(self) -> Targets | None:
        """[N, ...], or a list of N things, in the order of iteration; None where nothing is known."""
        found = self.samples.targets
        if found is None or isinstance(found, Tensor):
            return None if found is None else found[list(self.order)]
        return [found[index] for index in self.order]

    @cached_property
    def classes_shown(self) -> list[list[int]] | None:
        """The classes that each sample shows, rising: its label, or those of its boxes; None where neither is there."""
        return box_classes(self.targets) if self.labels is None else [[label] for label in self.labels.tolist()]

    @property
    def example(self) -> Inputs:
        """The first sample as a batch of one, [1, ...]."""
        return grouped([tensor[None] for tensor in tensors(self.samples.read(self.order[0]))])

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

    def materialize(self) -> tuple[Inputs, Targets | None]:
        """All samples at once: (x [N, ...] or a tuple of such, the targets or None), in the order of iteration."""
        check_memory(
            len(self) * self._bytes_of_one, f"{len(self):,} samples at once", str(self.path),
            "Take fewer: `recipe.images.count=256`",
        )
        kinds = [tensor.dtype for tensor in tensors(self.example)] if len(self) else [torch.float32] * len(self.shapes)
        columns = [torch.empty(len(self), *shape, dtype=kind) for shape, kind in zip(self.shapes, kinds, strict=True)]
        for position, index in enumerate(self.order):
            for column, tensor in zip(columns, tensors(self.samples.read(index)), strict=True):
                column[position] = tensor
        return grouped(columns), self.targets

    @property
    def _bytes_of_one(self) -> int:
        return 4 * sum(math.prod(shape) for shape in self.shapes)

    def without_labels(self) -> Batches:
        """The same samples, about which nothing is known."""
        return replace(self, samples=self.samples.without_labels(), classes=None, all_classes=False)

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
        batch = min(self.batch_size, len(self)) * checked._bytes_of_one
        check_memory(batch, "one batch", str(self.path), "Give smaller samples, or `input_size`.")
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
    path: str | Path, *, batch_size: int, purpose: Purpose, count: int | None = None, seed: int = 0, **how: Any,
) -> Batches:
    """Opens an image folder, an `.npz` with `x` (and `y`), or an `.npy` with x, and checks what it draws.

    Args:
        path, batch_size: see `open_pool`.
        purpose: calibration draws in a random order; evaluation keeps the order of the files.
        count: how many samples to draw, without replacement; all where there are fewer.
        seed: of the draw.
        how: further arguments of `open_pool`: `mean`, `std`, `input_size`, `channels` and so on.

    Raises:
        InputError: what is there cannot be used; the message names the file.
    """
    if purpose not in get_args(Purpose):
        raise InputError(f"purpose is {purpose!r}", field="purpose", allowed=" or ".join(get_args(Purpose)))
    batches = open_pool(path, batch_size=batch_size, purpose=purpose, **how)
    if purpose == "calib" or count is not None:
        drawn = shuffled(len(batches), count, seed)
        batches = batches.select(drawn if purpose == "calib" else sorted(drawn))
    return batches.checked()


def open_pool(
    path: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
    batch_size: int,
    purpose: Purpose,
    channels: Literal[1, 3, "rgb", "bgr", "gray"] = 3,
    pixel_range: tuple[float, float] = (0.0, 1.0),
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    classes: str | Path | None = None,
    pictures: str | Path | None = None,
    wanted: WantedInputs | None = None,
) -> Batches:
    """Everything that is there, in the order of the files; of a folder only names are read. See `Batches.checked`.

    Args:
        path: folder with one subfolder a class (labels follow the alphabet), a flat folder (no labels), or file; of a
            COCO annotation file (.json) boxes are the targets.
        mean, std: one number a channel, in the unit of `pixel_range`; arrays are used as they are.
        input_size: side, or (height, width), that images of another size are scaled to cover and centre-cropped to;
            None: all have one size.
        resize: (height, width) that images are scaled to without a crop, in place of `input_size`.
        batch_size: samples of one batch.
        channels: 3 for RGB, 1 for grey, or a name; images of another kind are converted.
        pixel_range: what the bytes 0 and 255 become before `mean` and `std`.
        layout: of the model's input.
        classes: a text file with the model's classes in their order: names of subfolders mean those, and some suffice.
        pictures: the folder of an annotation file's pictures; None looks beside it.
        wanted: names of the model's inputs, for an `.npz` that holds several.

    Raises:
        InputError: what is there cannot be used; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("the data does not exist", where=str(path), hint=nearest_path(path))
    known = None if classes is None else read_classes(Path(classes))
    how: dict[str, Any] = {"mean": mean, "std": std, "input_size": input_size, "resize": resize, "channels": channels,
                           "pixel_range": pixel_range, "layout": layout}
    if is_annotations(path):
        said = read_annotations(path, None if pictures is None else Path(pictures), known)
        samples: Samples = AnnotatedImages(said.root, said.files, None, image_steps(**how), found=said.found)
        return Batches(samples, tuple(range(len(samples))), batch_size, purpose, path, said.classes, said.notes, True)
    if not path.is_dir():
        if path.suffix.lower() not in (".npz", ".npy"):
            raise InputError("data of this kind cannot be read", where=str(path),
                             allowed="an image folder, .npz, .npy, a COCO .json or path/to/file.py:function")
        samples = Arrays.opened(path, wanted)
        return Batches(samples, tuple(range(len(samples))), batch_size, purpose, path)
    listing, steps = list_images(path), image_steps(**how)
    labels, names = listing.labels, listing.classes
    if known is not None:
        if labels is not None and names is not None:
            labels = torch.tensor(numbers_of(names, known, str(path)), dtype=torch.int64)[labels]
        names = known.lines
    samples, order = Images(path, listing.files, labels, steps), tuple(range(len(listing.files)))
    return Batches(samples, order, batch_size, purpose, path, names, listing.notes, known is not None)


def array_batches(
    images: Inputs, labels: Targets | None, batch_size: int, purpose: Purpose, origin: str, names: Sequence[str] = ()
) -> Batches:
    """Samples in memory as `Batches`, in their order; N may be 0.

    Args:
        images: [N, ...], or a tuple of such.
        origin: where messages say that they are from.
        names: of several inputs.
    """
    columns = tensors(on_device(images, torch.device("cpu")))
    called = names or [f"input_{place}" for place in range(len(columns))]
    arrays = {name: column.detach().contiguous().numpy() for name, column in zip(called, columns, strict=True)}
    samples = Arrays(arrays, labels)
    return Batches(samples, tuple(range(len(samples))), batch_size, purpose, Path(origin))


def shuffled(available: int, count: int | None, seed: int) -> list[int]:
    """The numbers below `available` in a random order, cut to `count`: a draw without replacement."""
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed)).tolist()[:count]


def check_against_model(
    batches: Batches, input_shapes: Sequence[Sequence[int]], num_classes: int | None
) -> None:
    """Raises InputError where samples or labels do not fit the model.

    Args:
        batches: what the model is to run on, its inputs in the model's order.
        input_shapes: of each input of the model, without the batch: ((C, H, W),) of an image.
        num_classes: outputs of the model; None where it is no classifier, then labels are not judged.
    """
    where = str(batches.path)
    expected = tuple(map(tuple, input_shapes))
    if expected != batches.shapes:
        meaning = " (channels, height, width)" if len(batches.shape) == 3 else ""
        raise InputError(
            f"samples have the shape {_shapes_text(batches.shapes)}{meaning}", where=where,
            allowed=f"{_shapes_text(expected)}, the input of the model",
            hint="Images are fitted with `input_size` or `resize`; arrays must have the model's shape.",
        )
    if num_classes is None:
        return
    labelled = batches.targets is None or batches.labels is not None  # else the classes are those of boxes
    if labelled and batches.all_classes and batches.classes is not None and len(batches.classes) != num_classes:
        raise InputError(f"the file of classes has {len(batches.classes)} classes and the model {num_classes}",
                         field="classes", allowed="one line for each output of the model, in their order")
    if batches.labels is None:
        return
    largest = int(batches.labels.max())
    if largest >= num_classes:
        raise InputError(
            f"the label {largest} is outside the model's classes", where=where, allowed=f"0 to {num_classes - 1}",
            hint="Labels count from 0; a folder's labels are the places of its subfolders in the alphabet.",
        )
    if batches.purpose == "eval" and batches.classes is not None and len(batches.classes) != num_classes:
        raise InputError(
            f"the folder has {len(batches.classes)} classes and the model {num_classes}: the labels cannot agree",
            where=where,
            hint="Give the model's classes in their order (`classes=names.txt`), or an .npz with x and y.",
        )


def _shapes_text(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)
