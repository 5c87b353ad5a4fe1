"""The zip archive that a model file is: whether it is whole, and whether it unpacks to what a file of its size holds.

Nothing here looks at what the members mean. Sizes are compared before a single member is unpacked, so that a file of
some megabytes cannot ask for the memory of the whole machine.
"""

from __future__ import annotations

import errno
import io
import struct
import zipfile
import zlib
from pathlib import Path

from isobit.pipeline.errors import InputError

EXPANSION = 16  # torch stores members as they are; a file that somebody zipped again unpacks to a few times its size
SLACK = 64 << 20  # bytes that any file may unpack to, however small it is
MEMBERS = 200_000
BROKEN_ZIP = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error,
              zlib.error)


def corrupt(path: Path, reason: str) -> InputError:
    """The error for a file that is not what torch wrote."""
    return InputError(
        f"the model file is truncated, corrupt or not a torch file ({reason})",
        where=str(path),
        allowed="a file written by torch.save or torch.export.save",
        hint="Save or copy it again.",
    )


def byte_limit(size: int) -> int:
    """How many bytes the content of a file of `size` bytes may take."""
    return EXPANSION * size + SLACK


def check_archive(path: Path, data: bytes | None = None) -> None:
    """Every member of a zip archive has the size and the checksum that it was saved with.

    Args:
        path: the file, which errors name.
        data: an archive inside of it; None for the file itself.

    Raises:
        InputError: the archive is damaged, names a member twice, or unpacks to more than a file of its size holds.
    """
    size = path.stat().st_size if data is None else len(data)
    try:
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            _check_sizes(path, archive, size)
            # torch.load does not look at the checksums: a flipped bit in a weight would pass unseen.
            damaged = archive.testzip()
    except (*BROKEN_ZIP, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a place before the file's begin
            raise
        raise corrupt(path, str(error) or type(error).__name__) from error
    if damaged is not None:
        raise corrupt(path, f"the checksum of '{damaged}' does not fit")


def _check_sizes(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise corrupt(path, f"{len(members):,} archive members")
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise corrupt(path, "a name stands twice in its table of members")
    total = sum(member.file_size for member in members)
    if total > byte_limit(size):
        raise InputError(
            f"the archive holds {size:,} bytes and unpacks to {total:,}",
            where=str(path),
            allowed=f"at most {EXPANSION} times its size and {SLACK >> 20} MiB",
            hint="torch writes its members unpacked: take the file as torch saved it.",
        )
    # Members that share bytes unpack to more than the file holds, each of them harmless alone.
    if sum(member.compress_size for member in members) > size:
        raise corrupt(path, "its members overlap")
    end = max((member.header_offset + member.compress_size for member in members), default=0)
    if end > size:
        raise corrupt(path, "a member reaches beyond the file's end")


def read_members(path: Path) -> dict[str, int]:
    """The names of a zip archive's members with their unpacked sizes; empty for another file."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename: member.file_size for member in archive.infolist()}
    except BROKEN_ZIP:
        return {}
