"""Reading numpy files: a header is judged before memory is taken for what it claims, and nothing is unpickled.

Numpy's own reader takes the header's word: it allocates what the shape says, and unpacks what the archive says. Here
both must agree with the bytes that are there, an `.npz` must fit into memory, and one that unpacks to `MAX_RATIO` times
its size is refused. An `.npy` stays on disk, whatever its size.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import check_memory

MAX_HEADER = 10_000  # bytes; numpy's own bound for headers that are not trusted
MAX_DIRECTORY = 1 << 20  # bytes of an archive's table of contents; an array needs some hundred
# Samples of cameras and microphones pack to a half or a tenth; only zeros pack to a thousandth, and a few of them may.
MAX_RATIO, SMALL = 100, 256 << 20
_PART = 16 << 20  # bytes that are unpacked at once
_PLAIN_DTYPE = re.compile(r"[<>|=]?[?biufc]\d{0,2}")
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x07"  # signatures of the last records of a zip file


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


def check_size(header: Header, found: int) -> None:
    """Raises ValueError where an array of `found` bytes is not what its header says."""
    if header.bytes != found:
        raise ValueError(
            f"the header claims {list(header.shape)} of {header.dtype}, {header.bytes:,} bytes with itself, and "
            f"{found:,} are there"
        )


# --- files ---


@contextmanager
def told(where: str) -> Iterator[None]:
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
def regular_file(path: Path) -> Iterator[IO[bytes]]:
    """The file, opened; a pipe or a device would be waited for, or never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        yield file


def map_npy(file: IO[bytes], header: Header) -> np.ndarray:
    """The array of an `.npy`, which stays on disk; `file` stands after the header."""
    check_size(header, os.fstat(file.fileno()).st_size)
    return np.memmap(file, header.dtype, "r", header.start, header.shape, "F" if header.fortran else "C")


def array_names(archive: zipfile.ZipFile) -> list[str]:
    """Names of the arrays in an archive, in its order, each once."""
    found = [member.filename for member in archive.infolist()]
    return list(dict.fromkeys(name.removesuffix(".npy") for name in found if name.endswith(".npy")))


def header_in(archive: zipfile.ZipFile, name: str) -> Header:
    """The header of one array; raises as `read_header`, and InputError where there is no such array."""
    with archive.open(_member(archive, name)) as inside:
        return read_header(inside)


def read_members(
    file: IO[bytes], archive: zipfile.ZipFile, checks: Mapping[str, Callable[[Header], Header]], where: str
) -> dict[str, np.ndarray]:
    """The named arrays, after a look at what they claim together.

    Args:
        checks: by name, what judges a header before a value is read.
    """
    members = [_member(archive, name) for name in checks]
    needed, packed = (sum(getattr(m, size) for m in members) for size in ("file_size", "compress_size"))
    if packed > os.fstat(file.fileno()).st_size:
        raise ValueError(f"the archive claims {packed:,} packed bytes, more than the file has")
    if needed > max(SMALL, MAX_RATIO * packed):
        raise InputError(
            f"{packed:,} bytes claim to unpack to {needed:,}", allowed=f"{SMALL:,} bytes, or {MAX_RATIO} to 1",
            hint="Store real samples with np.savez, or x alone with np.save.",
        )
    check_memory(needed, "the archive", where, "np.save x to an .npy, which stays on disk, or take fewer.")
    found = {}
    for member, (name, check) in zip(members, checks.items(), strict=True):
        with archive.open(member) as inside:
            header = check(read_header(inside))
            check_size(header, member.file_size)
            found[name] = _values(inside, header)
    return found


@contextmanager
def open_archive(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """The zip file, after a look at how long its table of contents is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 1024))
    tail = file.read()
    end = tail.rfind(_END)
    length = int.from_bytes(tail[end + 12:end + 16], "little") if end >= 0 else 0
    if length > MAX_DIRECTORY or (_END_64 in tail and _long_directory(file, tail)):
        raise ValueError("the archive's table of contents is too long")
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
        raise InputError(
            f"the archive has no array '{name}', it holds {held or 'nothing'}",
            allowed="x (and y), or an array for each input of the model by its name",
        )
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
