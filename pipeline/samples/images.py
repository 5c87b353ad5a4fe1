"""Samples of image files: which files of a folder are taken, and how one becomes a sample.

A folder may hold anything: what is no plain file of a known format is refused by its name, a picture that is larger
than `MAX_PIXELS` before it is unpacked. Links to files and to class folders elsewhere are followed; one that leads to
nothing, or to where images were found already, is left out and noted.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop
from torchvision.transforms import functional as F

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.arrays import Targets
from isobit.pipeline.samples.preparation import MODES, ImagePreparation, fitted, resized_to, values_of

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# The formats of these endings. By its content a file may be of any that PIL knows, PostScript included, which is run.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64 << 20  # of one picture, as it is stored and as it is resized
SIZED = ("crop", "stretch")  # kinds of resize that bring any picture to the input's size
SHOWN_LINKS = 3


@dataclass(frozen=True)
class Images:
    """Image files below `root`, decoded when they are read.

    Args:
        files: relative to `root`, with `/` between folders, as text because there may be a million of them.
        steps: how a file becomes a sample; where nothing is resized, height and width are 0 until `checked` finds those
            that all have, and before that those of the first file count.
        augment_seed: of the training augmentation; None for the deterministic resize.
    """

    root: Path
    files: tuple[str, ...]
    labels: Tensor | None
    steps: ImagePreparation
    augment_seed: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return sample_shape_of(self.preparation)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape,)

    @property
    def preparation(self) -> ImagePreparation:
        """`steps` with the size of the samples."""
        return self._sized

    @cached_property
    def _sized(self) -> ImagePreparation:
        if self.steps.height:
            return self.steps
        width, height = header_size(self.root / self.files[0])
        return replace(self.steps, height=height, width=width)

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    @property
    def targets(self) -> Targets | None:
        return self.labels

    @property
    def pixel_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def ordered(self, names: Sequence[str]) -> Images:
        return self

    def checked(self, indices: Sequence[int]) -> Images:
        """Looks at the headers, so that most faults show before any long work."""
        files = [self.root / self.files[index] for index in indices]
        sizes = [header_size(file, self.steps) for file in files]
        if self.steps.resize in SIZED:
            return self
        for file, size in zip(files, sizes, strict=True):
            _check_same_size(file, size, files[0], sizes[0])
        width, height = sizes[0]
        return replace(self, steps=replace(self.steps, height=height, width=width))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Tensor:
        image = self._decoded(index)
        if self.augment_seed is None:
            image = fitted(image, self.preparation)
        else:
            image = self._augmented(image, index)
        return torch.from_numpy(values_of(image, self.preparation))

    def pixels(self, index: int) -> Tensor:
        return F.to_tensor(fitted(self._decoded(index), self.preparation))

    def without_labels(self) -> Images:
        return replace(self, labels=None)

    def _decoded(self, index: int) -> Image.Image:
        file, steps = self.root / self.files[index], self.preparation
        with _opened(file, self.steps) as opened:
            image = opened.convert(MODES[steps.channels])
        if steps.resize not in SIZED:
            _check_same_size(file, image.size, self.root / self.files[0], (steps.width, steps.height))
        return image

    def _augmented(self, image: Image.Image, index: int) -> Image.Image:
        """The image's own draw: torchvision takes it from the global generator, which is put back afterwards."""
        digest = hashlib.sha256(f"{self.augment_seed}:{self.files[index]}".encode(*_NAMES)).digest()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            crop = RandomResizedCrop((self.preparation.height, self.preparation.width))
            return RandomHorizontalFlip()(crop(image))

    def content(self, index: int) -> tuple[bytes, bytes]:
        file, steps = self.files[index], self.steps
        side = {"crop": steps.height if steps.height == steps.width else (steps.height, steps.width)}.get(steps.resize)
        prepared: tuple[object, ...] = (len(steps.mean), side, steps.mean, steps.std, self.augment_seed)
        usual = replace(steps, resize="", channels="gray" if len(steps.mean) == 1 else "rgb", pixel_range=(0.0, 1.0),
                        layout="NCHW")
        if steps.resize == "stretch" or replace(steps, resize="") != usual:
            prepared += (steps,)
        return f"{file}\0{prepared}".encode(*_NAMES), (self.root / file).read_bytes()


def sample_shape_of(preparation: ImagePreparation) -> tuple[int, ...]:
    """(C, H, W), or (H, W, C) where the layout says so."""
    channels, size = len(preparation.mean), (preparation.height, preparation.width)
    return (*size, channels) if preparation.layout == "NHWC" else (channels, *size)


_NAMES = ("utf-8", "surrogateescape")  # a file's name may be any bytes


@contextmanager
def _opened(file: Path, steps: ImagePreparation | None) -> Iterator[Image.Image]:
    """The image with its header read, judged before its pixels are; InputError for all that is wrong inside."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
            raise InputError("not a regular file", where=str(file), hint="Remove it.")
        Image.init()
        formats = [name for name in FORMATS if name in Image.OPEN]
        quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
        with quiet, Image.open(file, "r", formats) as image:
            _check_pixels(file, image.size, steps)
            yield image
    except InputError:
        raise
    except Exception as error:  # on a damaged file PIL's readers raise whatever there is
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = reason.split("\n")[0] or type(error).__name__
        raise InputError(
            f"the image cannot be read: {reason}", where=str(file), hint="Replace or remove the file."
        ) from error


def _check_pixels(file: Path, size: tuple[int, int], steps: ImagePreparation | None) -> None:
    """A few bytes can claim any size, and a strip of one row becomes enormous when its shorter side is fitted."""
    width, height = size
    found = [(width * height, "")]
    if steps is not None and steps.resize in SIZED and min(size) > 0:
        pixels = math.prod(resized_to(steps, size))
        found.append((pixels, f", which are {pixels:,} when it is fitted to {steps.width}x{steps.height}"))
    for pixels, how in found:
        if pixels > MAX_PIXELS:
            raise InputError(
                f"the image has {width} by {height} pixels{how}", where=str(file),
                allowed=f"{MAX_PIXELS:,} pixels", hint="Replace or remove the file.",
            )


def header_size(file: Path, steps: ImagePreparation | None = None) -> tuple[int, int]:
    """(width, height) without decoding the pixels; raises InputError where it is no image that can be used."""
    with _opened(file, steps) as image:
        if image.mode[0] in "IF":  # 16 and 32 bits a pixel: PIL would clip them to 8 without a word
            raise InputError(
                f"the image has more than 8 bits a channel (PIL mode {image.mode})",
                where=str(file),
                allowed="8 bits a channel",
                hint="Convert the image, or give an .npz.",
            )
        return image.size


def _check_same_size(file: Path, size: tuple[int, int], other: Path, expected: tuple[int, int]) -> None:
    if size != expected:
        raise InputError(
            f"images have different sizes: {size[0]}x{size[1]} here, {expected[0]}x{expected[1]} in '{other}'",
            where=str(file),
            field="input_size",
            hint="Give `input_size` to resize and centre-crop all of them, or `resize` to scale them without a crop.",
        )


def image_steps(
    *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None, resize: tuple[int, int] | None = None,
    channels: int | str = 3, pixel_range: tuple[float, float] = (0.0, 1.0), layout: str = "NCHW",
) -> ImagePreparation:
    """The steps from an image file to a sample; see `open_pool` for the arguments.

    Raises:
        InputError: arguments that do not go together or cannot be used.
    """
    order = channels if isinstance(channels, str) else {1: "gray", 3: "rgb"}[channels]
    count = 1 if order == "gray" else 3
    means, stds = per_channel("mean", mean, 0.0, count), per_channel("std", std, 1.0, count)
    if min(stds) <= 0:
        raise InputError(f"`std` has a value that is not positive: {list(stds)}", field="std")
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    kind = "stretch" if resize is not None else "crop" if size is not None else "none"
    height, width = resize or size or (0, 0)
    return ImagePreparation(height, width, kind, order, pixel_range, means, stds, layout)


def per_channel(argument: str, values: Sequence[float] | None, default: float, channels: int) -> tuple[float, ...]:
    """The argument's numbers, one a channel: one alone stands for all, `default` where it is not given.

    Raises:
        InputError: neither one number nor `channels` of them, or not finite.
    """
    if values is None:
        return (default,) * channels
    if len(values) not in (1, channels):
        raise InputError(
            f"{len(values)} numbers for images of {channels} channel(s)", field=argument,
            allowed=f"one number, or {channels}",
        )
    if not np.isfinite(values).all():
        raise InputError(f"`{argument}` is {list(values)}", field=argument, allowed="finite numbers")
    return tuple(values) * channels if len(values) == 1 else tuple(values)


# --- folders ---


@dataclass(frozen=True)
class Listing:
    """What a folder of images holds.

    Args:
        files: relative to the folder, in the order of the alphabet.
        labels, classes: of folders with one subfolder a class; None where the folder is flat.
        notes: what was left out.
    """

    files: tuple[str, ...]
    labels: Tensor | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def list_images(root: Path) -> Listing:
    """The images below `root` by their names alone; raises InputError where there are none that can be used."""
    scan = _FolderScan(os.path.realpath(root))
    try:
        flat, folders = scan.top(root)
        inside = [sorted(scan.below(folder.path), key=lambda name: name.split("/")) for folder in folders]
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror}", where=str(error.filename or root)) from error
    files = [f"{folder.name}/{name}" for folder, names in zip(folders, inside, strict=True) for name in names]
    if not flat and not files:
        raise InputError(
            "the folder holds no images",
            where=str(root),
            allowed=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
            hint=" ".join(scan.notes(root)),
        )
    if flat and files:
        raise InputError(
            f"the folder holds both images and class folders: '{flat[0]}' beside '{files[0]}'",
            where=str(root),
            allowed="one subfolder a class, or images only",
        )
    if not files:
        return Listing(tuple(flat), None, None, scan.notes(root))
    labels = [label for label, names in enumerate(inside) for _ in names]
    classes = tuple(folder.name for folder in folders)
    return Listing(tuple(files), torch.tensor(labels, dtype=torch.int64), classes, scan.notes(root))


@dataclass
class _FolderScan:
    """Through one folder, noting the links that are left out.

    Args:
        real: path of the folder without links.
        skipped: (path, why) of links.
    """

    real: str
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def top(self, root: Path) -> tuple[list[str], list[os.DirEntry[str]]]:
        """(images, class folders) directly in the folder, in the order of the alphabet."""
        with os.scandir(root) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        folders = [entry for entry in found if not entry.name.startswith(".") and self._is_folder(entry, top=True)]
        return [entry.name for entry in found if self._is_image(entry)], folders

    def below(self, folder: str) -> Iterator[str]:
        """Names of the image files at any depth, relative to `folder`; the listing tells what they are."""
        waiting = [(folder, "")]
        while waiting:
            path, inside = waiting.pop()
            with os.scandir(path) as entries:
                for entry in entries:
                    if self._is_folder(entry, top=False):
                        waiting.append((entry.path, f"{inside}{entry.name}/"))
                    elif self._is_image(entry):
                        yield f"{inside}{entry.name}"

    def notes(self, root: Path) -> tuple[str, ...]:
        """One sentence about the links that were left out, where there are any."""
        if not self.skipped:
            return ()
        shown = ", ".join(f"'{os.path.relpath(path, root)}' {why}" for path, why in self.skipped[:SHOWN_LINKS])
        more = f" and {len(self.skipped) - SHOWN_LINKS} more" if len(self.skipped) > SHOWN_LINKS else ""
        return (f"{len(self.skipped)} link(s) in '{root}' are left out: {shown}{more}",)

    def _is_folder(self, entry: os.DirEntry[str], top: bool) -> bool:
        if not entry.is_symlink():
            return entry.is_dir()
        mode = _mode(entry)
        if mode is None and not entry.name.startswith("."):
            self.skipped.append((entry.path, "leads nowhere"))
        if mode is None or not stat.S_ISDIR(mode):
            return False
        target = os.path.realpath(entry.path)
        if os.path.commonpath([target, self.real]) in (target, self.real):
            self.skipped.append((entry.path, "leads into the folder itself"))
        elif not top:
            self.skipped.append((entry.path, "leads to another folder"))
        else:
            return True
        return False

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        if not has_image_name(entry.name):
            return False
        if entry.is_symlink():
            mode = _mode(entry)
            if mode is None or stat.S_ISDIR(mode):
                return False
            regular = stat.S_ISREG(mode)
        else:
            regular = entry.is_file()
            if entry.is_dir():
                return False
        if not regular:
            raise InputError(
                "an image's name belongs to what is not a regular file", where=entry.path, hint="Remove it."
            )
        return True


def _mode(entry: os.DirEntry[str]) -> int | None:
    """What a link leads to; None where it leads nowhere or in a circle."""
    try:
        return os.stat(entry.path).st_mode
    except OSError:
        return None


def has_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, and not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


