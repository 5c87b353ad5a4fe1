"""Files of an artifact that somebody may have changed, read within bounds."""

from __future__ import annotations

from pathlib import Path

from isobit.pipeline.errors import InputError

MOST_BYTES = 64 << 20  # of a file that is read


def read_bounded(path: Path) -> bytes:
    """The content of a file of at most `MOST_BYTES`.

    Raises:
        InputError: it is larger, or a pipe or device.
        OSError: it is not there or cannot be read.
    """
    path.stat()
    if not path.is_file():
        raise InputError("not a file", where=str(path), field="artifact")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{path.name} has more than {MOST_BYTES >> 20} MiB", where=str(path), field="artifact")
    return content
