"""Files that somebody compressed: unpacked for as long as they are read, to no more than a file of their size holds."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.archive import byte_limit, corrupt

SUFFIX = ".gz"
_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20
_TAR = slice(257, 262)  # where a tar says that it is one


def plain_name(path: Path) -> str:
    """The name of a file without what its compression and its format add: `net` for net.pth.gz."""
    return Path(path.stem).stem if path.suffix.lower() == SUFFIX else path.stem


@contextlib.contextmanager
def uncompressed(path: Path) -> Iterator[Path]:
    """`path`, or where it is gzip a temporary file with the content, whose errors name `path`.

    Raises:
        InputError: the file is damaged, unpacks to more than a file of its size holds, or holds a tar.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            yield path
            return
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / (path.stem if path.suffix.lower() == SUFFIX else path.name)
        _unpack(path, inner)
        try:
            yield inner
        except InputError as error:
            where = error.where.replace(str(inner), str(path))
            raise InputError(
                error.what, where=where, allowed=error.allowed, hint=error.hint, field=error.field
            ) from error


def _unpack(path: Path, inner: Path) -> None:
    limit, taken, start = byte_limit(path.stat().st_size), 0, b""
    try:
        with gzip.open(path) as source, inner.open("wb") as target:
            while block := source.read(_BLOCK):
                start, taken = start or block, taken + len(block)
                if taken > limit:
                    raise corrupt(path, f"it unpacks to more than {limit:,} bytes")
                target.write(block)
    except (OSError, EOFError, zlib.error) as error:
        raise corrupt(path, f"its compression is damaged: {type(error).__name__}") from error
    if start[_TAR] == b"ustar":
        raise InputError(
            "the file is a packed folder, not a model", where=str(path), allowed="one compressed model file",
            hint="Unpack it (`tar -xf`) and give the model file in it.",
        )
