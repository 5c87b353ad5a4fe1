"""Output: the folder that a build may write, kept for it while it runs, and filled completely or not at all.

Everything is written to a hidden sibling of the output folder and renamed into place as the last act; an exception of
any kind, Ctrl-C and a full disk included, removes it. What a killed run leaves, the next one for the same folder
removes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.artifact.folder_lock import hold
from isobit.pipeline.artifact.manifest import PRODUCT
from isobit.pipeline.errors import CompileError, InputError

MAX_NAME = 220  # bytes of the output folder's name: file systems take 255, and temporary names are longer
NOTHING_FREE = 1 << 16  # bytes on a disk; libraries in C++ say that a file cannot be written, and not why


def failed_place(out: Path) -> Path:
    """Where an artifact goes whose gate failed."""
    return out.with_name(f"{out.name}-failed")


@contextmanager
def claim(
    out: Path, overwrite: bool = False, checkpoints: Path | None = None, inputs: Mapping[str, Path | None] | None = None
) -> Iterator[None]:
    """Keep `out` for this run: every other that would write there is refused while the block runs.

    What a killed run left beside it is removed; an artifact that such a run had moved aside is put back.

    Args:
        out, overwrite: see `check_out`.
        checkpoints: a folder that is this run's as well.
        inputs: what the run reads, by what its caller calls it.

    Raises:
        InputError: `out` must not be written, another run writes there, an input lies in it or it in an input.
    """
    check_out(out, overwrite)
    _check_apart(out, inputs or {})
    places = [out, failed_place(out)]
    with hold(*places, *([] if checkpoints is None else [checkpoints])) as held:
        for place in places if held else ():
            _clear(place.resolve())
        check_out(out, overwrite)
        check_out(failed_place(out), overwrite=True)
        yield


def _check_apart(out: Path, inputs: Mapping[str, Path | None]) -> None:
    place = out.resolve()
    for option, path in inputs.items():
        real = None if path is None else path.resolve()
        if real is None or not real.exists():
            continue
        if real == place or place in real.parents:
            raise InputError(
                f"{option} lies in the output folder, which is written as a whole", where=str(path), field="out",
                hint="Give another `out`.",
            )
        if real in place.parents and real.is_dir():
            raise InputError(
                f"the output folder lies in {option}, where it would be taken for data", where=str(out), field="out",
                hint="Give another `out`.",
            )


def _clear(out: Path) -> None:
    """Remove the temporary folders of runs that were killed; the caller holds `out`, so none of them is alive."""
    if not out.parent.is_dir():
        return
    ours = re.compile(re.escape(f".{out.name}-") + r"[a-z0-9_]{8}\.(partial|old)")
    for path in sorted(path for path in out.parent.iterdir() if ours.fullmatch(path.name)):
        if path.suffix == ".old" and not out.exists() and is_artifact(path):
            path.rename(out)  # killed between two renames: the artifact that was to be replaced is all there is
        else:
            shutil.rmtree(path, ignore_errors=True)


def check_out(out: Path, overwrite: bool = False) -> None:
    """Raises InputError where an artifact must not be written to `out`; meant to be asked before long work.

    With `overwrite` only an empty folder or an artifact is replaced: no home is deleted.
    """
    _check_name(out)
    if not out.exists() and not out.is_symlink():
        _check_place(out)
        return
    if not out.is_dir():
        raise InputError(
            "the output exists and is not a folder", where=str(out), field="out", hint="Give another `out`."
        )
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise InputError(
            "the output folder exists", where=str(out), field="out",
            hint="Give another `out`, or `options.overwrite=True` to replace it.",
        )
    if not is_artifact(out):
        raise InputError(
            f"the folder to overwrite is not an artifact of {PRODUCT}",
            where=str(out),
            allowed=f"an empty folder, or one whose {MANIFEST} names the product {PRODUCT}",
            field="out",
            hint="Give another `out`, or delete the folder yourself.",
        )
    _check_place(out.resolve())


def _check_name(out: Path) -> None:
    """The name can be one of a folder, with what is put around it while it is written; and it is not where we stand."""
    if "\0" in str(out) or len(os.fsencode(out.name)) > MAX_NAME:
        raise InputError(
            "the output folder's name is too long or none", where=str(out), allowed=f"{MAX_NAME} bytes", field="out",
        )
    place = out.resolve()
    if place == place.parent or place in (Path.cwd(), *Path.cwd().parents):
        raise InputError(
            "the output would replace the folder that the command runs in, or one above it", where=str(out),
            hint="Give the name of a folder inside it.", field="out",
        )


def _check_place(out: Path) -> None:
    """The folder that `out` is to be made in can take it: found before hours of work, not after them."""
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise InputError("the output folder cannot be made: a file is in its way", where=str(parent), field="out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError("the output folder cannot be made: no permission to write", where=str(parent), field="out")


def is_artifact(folder: Path) -> bool:
    """The folder has a manifest of this product."""
    try:
        if not (folder / MANIFEST).is_file():
            return False
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("product") == PRODUCT


@contextmanager
def write_artifact(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill; it becomes `out` when the block ends, and nothing remains when it raises.

    Args:
        out: the folder that is to hold the artifact; its parents are made.
        overwrite: replace an artifact that is there. The old one stays until the new one is complete.

    Raises:
        InputError: `out` must not be written (see `check_out`), its place cannot be written, the disk is full.
    """
    check_out(out, overwrite)
    out = out.resolve()
    temporary = _make_sibling(out)
    try:
        yield temporary
        _sync(temporary)
        check_out(out, overwrite)  # somebody else may have written there meanwhile
        _move_into_place(temporary, out)
    except Exception as error:
        free = shutil.disk_usage(out.parent).free
        if not is_disk_full(error) and (isinstance(error, CompileError) or free >= NOTHING_FREE):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(out.parent).free
        raise InputError(
            f"the disk is full: {free:,} bytes are free; nothing was left behind",
            where=str(out),
            field="out",
            hint="Make room, or give an `out` on another disk.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether the system refused to write for want of room; libraries that hide that from Python are not known."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _make_sibling(out: Path) -> Path:
    """A new folder next to `out`, so that the rename at the end stays on one file system."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise InputError(f"the output folder cannot be made: {error.strerror}", where=str(out), field="out") from error
    folder.chmod(0o755)  # mkdtemp makes folders that only their owner can read
    return folder


def _sync(folder: Path) -> None:
    """Has every file and folder on disk before the rename makes them visible."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_into_place(new: Path, out: Path) -> None:
    """Renames `new` to `out`; what is there is moved away first, back on failure, and deleted last."""
    if not out.exists():
        new.rename(out)
        return
    old = new.with_suffix(".old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
