"""Samples of a numpy file. A header is judged before memory is taken for what it claims, and nothing is unpickled.

Numpy's own reader takes the header's word: it allocates what the shape says, and unpacks what the archive says. Here
both must agree with the bytes that are there, an `.npz` must fit into memory, and one that unpacks to `MAX_RATIO` times
its size is refused. An `.npy` stays on disk, whatever its size, and one sample of it must fit into memory.
"""

from __future__ import annotations

import ast
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import check_memory

MAX_HEADER = 10_000  # bytes; numpy's own bound for headers that are not trusted
MAX_DIRECTORY = 1 << 20  # bytes of an archive's table of contents; two arrays need some hundred
# Samples of cameras and microphones pack to a half or a tenth; only zeros pack to a thousandth, and a few of them may.
MAX_RATIO, SMALL = 100, 256 << 20
_PART = 16 << 20  # bytes that are unpacked at once
_PLAIN_DTYPE = re.compile(r"[<>|=]?[?biufc]\d{0,2}")
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x07"  # signatures of the last records of a zip file


@dataclass(frozen=True)
class Arrays:
    """Samples of a numpy array [N, C, H, W]; an `.npy` stays on disk."""

    x: np.ndarray
    labels: Tensor | None
    shape: tuple[int, int, int]
    where: str = ""

    @classmethod
    def opened(cls, path: Path) -> Arrays:
        """The samples of an `.npy` or an `.npz`; raises InputError where its header or its labels cannot be used."""
        where = str(path)
        with _told(where):
            x, y = _map_npy(path) if path.suffix.lower() == ".npy" else _read_npz(path)
        shape = tuple(x.shape[1:])
        hint = "Samples of this size cannot be calibrated with here."
        check_memory(4 * math.prod(shape), "one sample", where, hint)
        return cls(x, None if y is None else _checked_labels(y, where), shape, where)

    @property
    def pixel_range(self) -> tuple[float, float]:
        return self._extremes

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        return float(self.x.min()), float(self.x.max())

    def checked(self, indices: Sequence[int]) -> Arrays:
        """Themselves, after a look at the values; what was not drawn is not read, as an array may fill a disk."""
        for index in indices:
            if not np.isfinite(_as_float32(self.x[index])).all():
                raise InputError(f"x has NaN or infinite values, first in sample {index}", where=self.where)
        return self

    def __len__(self) -> int:
        return len(self.x)

    def read(self, index: int) -> Tensor:
        return torch.from_numpy(_as_float32(self.x[index]))

    def pixels(self, index: int) -> Tensor:
        return self.read(index)

    def without_labels(self) -> Arrays:
        return replace(self, labels=None)

    def content(self, index: int) -> tuple[bytes, bytes]:
        label = b"" if self.labels is None else int(self.labels[index]).to_bytes(8, "little")
        return label, _as_float32(self.x[index]).tobytes()


def sample_shape(path: Path) -> tuple[int, int, int]:
    """(C, H, W) of the samples in an `.npy` or `.npz`, from its header; raises InputError where it cannot be used."""
    with _told(str(path)), _regular(path) as file:
        if path.suffix.lower() == ".npy":
            return _shape_of_one(read_header(file))
        with _archive(file) as archive, archive.open(_member(archive, "x")) as inside:
            return _shape_of_one(read_header(inside))


# --- headers ---


@dataclass(frozen=True)
class Header:
    """What an `.npy` says about itself.

    Args:
        start: bytes before the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """Size of the whole file, values included; exact, however large the shape's numbers are."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """The header at the beginning of `file`; raises ValueError where it is none, or not one of plain numbers."""
    begin = file.read(8)
    if begin[:6] != b"\x93NUMPY" or begin[6:7] not in (b"\1", b"\2", b"\3"):
        raise ValueError("no header of an .npy")
    width = 2 if begin[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length:,} bytes, at most {MAX_HEADER:,} are read")
    text = file.read(length)
    if len(text) < length:
        raise EOFError("the header ends before its time")
    try:
        fields = ast.literal_eval(text.decode("latin1" if begin[6] < 3 else "utf-8").strip())
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("the header is not a dictionary of plain values") from error
    return _header(fields, 8 + width + length)


def _header(fields: Any, start: int) -> Header:
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("the header does not hold descr, fortran_order and shape")
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the shape in the header is not a tuple of sizes")
    if not isinstance(fortran, bool):
        raise ValueError("fortran_order in the header is neither True nor False")
    if not isinstance(descr, str):
        raise ValueError("arrays of records cannot be read, only plain numbers")
    if descr.lstrip("<>|=").startswith("O"):
        raise ValueError("Object arrays cannot be read, only plain numbers")
    if not _PLAIN_DTYPE.fullmatch(descr):
        raise ValueError(f"values of the type {descr[:20]!r} cannot be read, only plain numbers")
    try:
        return Header(shape, np.dtype(descr), fortran, start)
    except TypeError as error:
        raise ValueError(f"there are no numbers of the type {descr!r}") from error


def _checked_samples(header: Header) -> Header:
    """The header of x; raises InputError where it cannot be samples, all before a value is read."""
    shape, dtype = header.shape, header.dtype
    if len(shape) != 4:
        raise InputError(
            f"x has {len(shape)} dimensions: {list(shape)[:8]}", allowed="[samples, channels, height, width]"
        )
    if 0 in shape:
        raise InputError(f"x is empty: {list(shape)}")
    if not np.issubdtype(dtype, np.floating):
        raise InputError(f"x holds {dtype}", allowed="float32, scaled and normalised as the model was trained")
    return header


def _shape_of_one(header: Header) -> tuple[int, int, int]:
    _, channels, height, width = _checked_samples(header).shape
    return channels, height, width


def _check_size(header: Header, found: int) -> None:
    if header.bytes != found:
        raise ValueError(
            f"the header claims {list(header.shape)} of {header.dtype}, {header.bytes:,} bytes with itself, and "
            f"{found:,} are there"
        )


# --- files ---


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What a damaged file makes the readers raise becomes an InputError; one of ours is told where it happened."""
    try:
        yield
    except InputError as error:
        if error.where:
            raise
        raise InputError(error.what, where=where, allowed=error.allowed, hint=error.hint) from None
    except (OSError, ValueError, EOFError, OverflowError, NotImplementedError, RuntimeError, struct.error, zlib.error,
            zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the numpy file is truncated, corrupt or of another kind: {reason}", where=where) from error


@contextmanager
def _regular(path: Path) -> Iterator[IO[bytes]]:
    """The file, opened; a pipe or a device would be waited for, or never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        yield file


def _map_npy(path: Path) -> tuple[np.ndarray, None]:
    with _regular(path) as file:
        header = _checked_samples(read_header(file))
        _check_size(header, os.fstat(file.fileno()).st_size)
        order = "F" if header.fortran else "C"
        return np.memmap(file, header.dtype, "r", header.start, header.shape, order), None


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with _regular(path) as file, _archive(file) as archive:
        members = [_member(archive, "x")]
        if "y.npy" in archive.namelist():
            members.append(_member(archive, "y"))
        needed, packed = (sum(getattr(m, size) for m in members) for size in ("file_size", "compress_size"))
        if packed > os.fstat(file.fileno()).st_size:
            raise ValueError(f"the archive claims {packed:,} packed bytes, more than the file has")
        if needed > max(SMALL, MAX_RATIO * packed):
            raise InputError(
                f"{packed:,} bytes claim to unpack to {needed:,}", allowed=f"{SMALL:,} bytes, or {MAX_RATIO} to 1",
                hint="Store real samples with np.savez, or x alone with np.save.",
            )
        check_memory(needed, "the archive", str(path), "np.save x to an .npy, which stays on disk, or take fewer.")
        found: list[np.ndarray] = []
        for member, check in zip(members, (_checked_samples, _checked_label_header), strict=False):
            with archive.open(member) as inside:
                header = check(read_header(inside))
                _check_size(header, member.file_size)
                if found and header.shape[0] != len(found[0]):
                    raise InputError(f"y has {header.shape[0]} labels for {len(found[0])} samples in x")
                found.append(_values(inside, header))
        return found[0], found[1] if len(found) > 1 else None


@contextmanager
def _archive(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """The zip file, after a look at how long its table of contents is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 1024))
    tail = file.read()
    end = tail.rfind(_END)
    length = int.from_bytes(tail[end + 12:end + 16], "little") if end >= 0 else 0
    if length > MAX_DIRECTORY or (_END_64 in tail and _long_directory(file, tail)):
        raise ValueError("the archive's table of contents is too long for two arrays")
    with zipfile.ZipFile(file) as archive:
        yield archive


def _long_directory(file: IO[bytes], tail: bytes) -> bool:
    """Whether the record for archives beyond 4 GiB, where it counts, has a long table of contents."""
    locator = tail.rfind(_END_64)
    file.seek(int.from_bytes(tail[locator + 8:locator + 16], "little"))
    return int.from_bytes(file.read(56)[40:48], "little") > MAX_DIRECTORY


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The one array of this name; raises ValueError where it is not as numpy writes it."""
    found = [member for member in archive.infolist() if member.filename == f"{name}.npy"]
    if not found:
        names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
        held = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(f"the archive has no array '{name}', it holds {held or 'nothing'}", allowed="x (and y)")
    if len(found) > 1:
        raise ValueError(f"the array '{name}' is there {len(found)} times")
    member = found[0]
    if member.flag_bits & 1:
        raise ValueError(f"the array '{name}' is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"the array '{name}' is packed in another way than numpy's")
    return member


def _values(file: IO[bytes], header: Header) -> np.ndarray:
    """The array after the header, in parts; the member's checksum is verified as the last of it is read."""
    flat = np.empty(math.prod(header.shape), header.dtype)
    place = flat.data.cast("B") if flat.dtype.isnative else flat.view(np.uint8).data
    done = 0
    while done < len(place):
        part = file.read(min(_PART, len(place) - done))
        if not part:
            raise EOFError("the values end before their time")
        place[done:done + len(part)] = part
        done += len(part)
    if file.read(1):
        raise ValueError("more values than the header claims")
    return flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)


def _as_float32(sample: np.ndarray) -> np.ndarray:
    """A float32 copy that owns its memory; values too large for float32 become infinite and are refused."""
    with np.errstate(over="ignore"):
        return np.array(sample, dtype=np.float32, order="C")


# --- labels ---


def _checked_label_header(header: Header) -> Header:
    shape, dtype = header.shape, header.dtype
    if len(shape) != 1:
        hint = "For one-hot labels store y.argmax(1)." if len(shape) == 2 else ""
        raise InputError(f"y has the shape {list(shape)[:8]}", allowed="[samples]", hint=hint)
    if not np.issubdtype(dtype, np.integer):
        raise InputError(f"labels in y are {dtype}, not integers", allowed="int64, counted from 0")
    return header


def _checked_labels(y: np.ndarray, where: str) -> Tensor:
    if y.min() < 0:
        raise InputError(f"y has the negative label {y.min()}", where=where, allowed="integers from 0")
    if y.max() > np.iinfo(np.int64).max:
        raise InputError(f"y has the label {y.max()}", where=where, allowed="integers below 2**63")
    return torch.from_numpy(y.astype(np.int64))
