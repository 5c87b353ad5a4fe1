"""Samples of image files: which files of a folder are taken, and how one becomes a sample.

A folder may hold anything: what is no plain file of a known format is refused by its name, a picture that is larger
than `MAX_PIXELS` before it is unpacked. Links to files and to class folders elsewhere are followed; one that leads to
nothing, or to where images were found already, is left out and noted.
"""

from __future__ import annotations

import hashlib
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
from torchvision.transforms import CenterCrop, RandomHorizontalFlip, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

from isobit.pipeline.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# The formats of these endings. By its content a file may be of any that PIL knows, PostScript included, which is run.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64 << 20  # of one picture, as it is stored and as it is resized
RESIZE_RATIO = 256 / 224  # shorter side before the centre crop, as in the usual ImageNet evaluation
MODES = {1: "L", 3: "RGB"}
SHOWN_LINKS = 3


@dataclass(frozen=True)
class Images:
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

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        if self.input_size is not None:
            return self.channels, self.input_size, self.input_size
        width, height = self.common or header_size(self.root / self.files[0])
        return self.channels, height, width

    @property
    def pixel_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def checked(self, indices: Sequence[int]) -> Images:
        """Looks at the headers, so that most faults show before any long work."""
        files = [self.root / self.files[index] for index in indices]
        sizes = [header_size(file, self.input_size) for file in files]
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
        return F.normalize(F.to_tensor(image), list(self.mean), list(self.std))

    def pixels(self, index: int) -> Tensor:
        return F.to_tensor(self._fitted(self._decoded(index)))

    def without_labels(self) -> Images:
        return replace(self, labels=None)

    def _decoded(self, index: int) -> Image.Image:
        file = self.root / self.files[index]
        with _opened(file, self.input_size) as opened:
            image = opened.convert(MODES[self.channels])
        if self.input_size is None:
            _, height, width = self.shape
            _check_same_size(file, image.size, self.root / self.files[0], (width, height))
        return image

    def _fitted(self, image: Image.Image) -> Image.Image:
        _, height, width = self.shape
        if image.size == (width, height):
            return image
        return CenterCrop([height, width])(Resize(round(height * RESIZE_RATIO))(image))

    def _augmented(self, image: Image.Image, index: int) -> Image.Image:
        """The image's own draw: torchvision takes it from the global generator, which is put back afterwards."""
        digest = hashlib.sha256(f"{self.augment_seed}:{self.files[index]}".encode(*_NAMES)).digest()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            return RandomHorizontalFlip()(RandomResizedCrop(self.shape[1:])(image))

    def content(self, index: int) -> tuple[bytes, bytes]:
        file = self.files[index]
        prepared = (self.channels, self.input_size, self.mean, self.std, self.augment_seed)
        return f"{file}\0{prepared}".encode(*_NAMES), (self.root / file).read_bytes()


_NAMES = ("utf-8", "surrogateescape")  # a file's name may be any bytes


@contextmanager
def _opened(file: Path, input_size: int | None) -> Iterator[Image.Image]:
    """The image with its header read, judged before its pixels are; InputError for all that is wrong inside."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
            raise InputError("not a regular file", where=str(file), hint="Remove it.")
        Image.init()
        formats = [name for name in FORMATS if name in Image.OPEN]
        quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
        with quiet, Image.open(file, "r", formats) as image:
            _check_pixels(file, image.size, input_size)
            yield image
    except InputError:
        raise
    except Exception as error:  # on a damaged file PIL's readers raise whatever there is
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = reason.split("\n")[0] or type(error).__name__
        raise InputError(
            f"the image cannot be read: {reason}", where=str(file), hint="Replace or remove the file."
        ) from error


def _check_pixels(file: Path, size: tuple[int, int], input_size: int | None) -> None:
    """A few bytes can claim any size, and a strip of one row becomes enormous when its shorter side is fitted."""
    width, height = size
    fitted = 0 if input_size is None else round(input_size * RESIZE_RATIO) ** 2 * max(size) // max(1, min(size))
    for pixels, how in ((width * height, ""), (fitted, f", which are {fitted:,} when it is fitted to {input_size}")):
        if pixels > MAX_PIXELS:
            raise InputError(
                f"the image has {width} by {height} pixels{how}", where=str(file),
                allowed=f"{MAX_PIXELS:,} pixels", hint="Replace or remove the file.",
            )


def header_size(file: Path, input_size: int | None = None) -> tuple[int, int]:
    """(width, height) without decoding the pixels; raises InputError where it is no image that can be used."""
    with _opened(file, input_size) as image:
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
            hint="Give `input_size` to resize and centre-crop all of them.",
        )


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
            allowed="one subfolder a class, or images only (calibration)",
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


