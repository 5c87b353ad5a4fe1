"""Artifact: the folder that is shipped, written completely or not at all, and the manifest that describes it.

Everything is written to a hidden sibling of the output folder and renamed into place as the last act; an
exception of any kind, Ctrl-C and a full disk included, removes it. Two builds from the same input with the same seed
give the same bytes in every file but `timings.json`, which is for people alone and not in the manifest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.digest import DIGEST, content_digest
from pipeline.errors import InputError
from pipeline.grid import Levels

PRODUCT = "isobit"
MANIFEST = "manifest.json"
TIMINGS = "timings.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RecipeEntry(_Frozen):
    """The recipe in full (`Recipe.to_yaml()`) and its hash; `policy` is its bit policy, which accuracies depend on."""

    name: str
    policy: str
    text: str
    sha256: str


class ModelEntry(_Frozen):
    """The model file that the artifact was made from; `sha256` is of the file's bytes.

    `arch` is what its module was built by; of a path the last part, as folders are of one machine.
    """

    name: str
    sha256: str
    arch: str | None


class CalibrationEntry(_Frozen):
    """The images that calibration used: `kind` is the recipe's source, `sha256` is `Batches.sha256`.

    `synthetic` says that no data was read for them: the source made them, or the method did and `count` is 0.
    """

    kind: str
    sha256: str
    count: int
    synthetic: bool = False

    @property
    def text(self) -> str:
        """For people: `64 samples, source: files`, or `synthetic (distilled, 64 images)`."""
        if not self.synthetic:
            return f"{self.count} samples, source: {self.kind}"
        return f"synthetic ({self.kind}, {self.count} images)" if self.count else "synthetic (made by the method)"


class TargetEntry(_Frozen):
    """What was built for; `runtime` maps each runtime package to its version."""

    name: str
    profile: str
    runtime: dict[str, str]


class TensorEntry(_Frozen):
    """One quantized tensor: real = scale * (code - zero_point), with one number or one per index of `axis`.

    `count` is the number of codes of a constant; None for an activation, whose size varies with the batch: `elements`
    is its size for one sample. `bits` are of the grid; where `levels` are not uniform they are the mean of
    `channel_bits`, and the codes lie in a wider grid.
    """

    name: str
    module: str
    kind: Literal["activation", "weight", "bias"]
    bits: int | float
    signed: bool
    symmetric: bool
    axis: int | None
    scale: float | list[float]
    zero_point: int | list[int]
    container: str
    count: int | None
    codes_sha256: str | None
    levels: Levels = "uniform"
    channel_bits: list[int] | None = None
    elements: int | None = None


class AllocationEntry(_Frozen):
    """What a budget of weight bits became: bits by layer, their mean over the layers that were open."""

    budget: str
    bits: dict[str, int]
    average: float
    omega: float
    images: int


class FileEntry(_Frozen):
    """One file of the artifact."""

    bytes: int
    sha256: str


class Manifest(_Frozen):
    """What was shipped and from what it was made; `files` covers every file but itself and the timings.

    `sha256` is the digest of the rest; it stands in the text alone, where `to_json` puts it.
    """

    product: str = PRODUCT
    version: str
    recipe: RecipeEntry
    model: ModelEntry
    calibration: CalibrationEntry | None
    target: TargetEntry
    packages: dict[str, str]
    seed: int
    tensors: list[TensorEntry]
    files: dict[str, FileEntry]
    allocation: AllocationEntry | None = None
    sizes: dict[str, int]
    sha256: str | None = None

    def to_json(self) -> str:
        """JSON with sorted keys and its own digest: equal manifests give equal bytes."""
        content = self.model_dump(mode="json", exclude={DIGEST})
        sealed = {**content, DIGEST: content_digest(content)}
        return json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"


def packed_bytes(tensors: Iterable[TensorEntry]) -> int:
    """What the weight codes take where each is stored in its own bits."""
    return math.ceil(sum(_code_bits(entry) for entry in tensors if entry.kind == "weight") / 8)


def _code_bits(entry: TensorEntry) -> int:
    """Bits of all codes of a constant: exact integers, as channels are equally large."""
    if entry.channel_bits is None:
        return int(entry.bits) * entry.count
    return sum(entry.channel_bits) * entry.count // len(entry.channel_bits)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`; raises InputError where there is none that can be read."""
    try:
        found = Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
        return found.model_copy(update={DIGEST: None})
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no artifact that can be read: {reason}", where=str(folder / MANIFEST)) from error


def sha256_file(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_table(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file under `folder` but the manifest and the timings, by relative path."""
    left_out = {folder / MANIFEST, folder / TIMINGS}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path not in left_out)
    return {
        path.relative_to(folder).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    }


def package_versions(*names: str) -> dict[str, str]:
    """Version of Python and of each named distribution that is installed here."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def check_out(out: Path, overwrite: bool = False) -> None:
    """Raises InputError where an artifact must not be written to `out`; meant to be asked before long work.

    With `overwrite` only an empty folder or an artifact is replaced: `--out ~ --overwrite` deletes no home.
    """
    if not out.exists() and not out.is_symlink():
        _check_place(out)
        return
    if not out.is_dir():
        raise InputError("the output exists and is not a folder", where=str(out), hint="Give another --out.")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise InputError(
            "the output folder exists", where=str(out), hint="Give another --out, or --overwrite to replace it."
        )
    if not _is_artifact(out):
        raise InputError(
            f"the folder to overwrite is not an artifact of {PRODUCT}",
            where=str(out),
            allowed=f"an empty folder, or one whose {MANIFEST} names the product {PRODUCT}",
            hint="Give another --out, or delete the folder yourself.",
        )


def _check_place(out: Path) -> None:
    """The folder that `out` is to be made in can take it: found before hours of work, not behind them."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise InputError("the output folder cannot be made: a file is in its way", where=str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError("the output folder cannot be made: no permission to write", where=str(parent))


def _is_artifact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(out.parent).free
        raise InputError(
            f"the disk is full: {free:,} bytes are free; nothing was left behind",
            where=str(out),
            hint="Make room, or give an --out on another disk.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_sibling(out: Path) -> Path:
    """A new folder next to `out`, so that the rename at the end stays on one file system."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise InputError(f"the output folder cannot be made: {error.strerror}", where=str(out)) from error
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
