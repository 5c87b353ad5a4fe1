"""Artifact: what the folder that is shipped says about itself.

Two builds from the same input with the same seed give the same bytes in every file but `timings.json`, which is for
people alone and not in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, TIMINGS, content_digest
from isobit.pipeline.artifact.reading import read_bounded
from isobit.pipeline.errors import InputError, nearest_path
from isobit.pipeline.quant.grid import Grid

PRODUCT = "isobit"
CUT = "cut"
PREPROCESSING = "preprocessing"  # the field of a manifest, and the name in a model file


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
    is its size for one sample. `levels` is the kind of its grid. `bits` are of the grid; where channels
    have bits of their own they are the mean of `channel_bits`, and the codes lie in a wider grid.
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
    levels: str = Grid.kind
    channel_bits: list[int] | None = None
    elements: int | None = None


class AllocationEntry(_Frozen):
    """What a budget of weight bits became: bits by layer, their mean over the layers that were open."""

    budget: str
    bits: dict[str, int]
    average: float
    omega: float
    images: int


class PreprocessingEntry(_Frozen):
    """How a picture becomes the input `input`; see `pipeline.samples.preparation.ImagePreparation` for each step.

    `classes` are the names of the model's classes in the order of its outputs, where they are known; `decoder` is the
    function in `decoder.py` that finds boxes in the outputs, where one was named.
    """

    input: str
    height: int
    width: int
    resize: Literal["crop", "stretch", "none"]
    interpolation: str
    channels: Literal["rgb", "bgr", "gray"]
    pixel_range: list[float]
    mean: list[float]
    std: list[float]
    layout: Literal["NCHW", "NHWC"]
    dtype: str
    classes: list[str] | None = None
    decoder: str | None = None

    @property
    def facts(self) -> dict[str, str]:
        """As texts by name, for model files that have a place for such: JSON each."""
        steps = self.model_dump(mode="json", exclude={"classes", "decoder"})
        facts = {PREPROCESSING: json.dumps(steps, sort_keys=True)}
        return facts if self.classes is None else facts | {"classes": json.dumps(self.classes)}


class CutPointEntry(_Frozen):
    """A value at which integers end: its node, its layer, the file's node or the user's line, what follows it."""

    name: str
    layer: str
    source: str
    why: str


class CutEntry(_Frozen):
    """Where integers end: what decodes after it in float, and the model's outputs that are not there without it."""

    points: list[CutPointEntry]
    operators: list[str]
    without: list[str]


class FileEntry(_Frozen):
    """One file of the artifact."""

    bytes: int
    sha256: str


class Manifest(_Frozen):
    """What was shipped and from what it was made; `files` covers every file but itself and the timings.

    `preprocessing` is there where image files were given, `cut` where something decodes; else the text does not mention
    them.

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
    preprocessing: PreprocessingEntry | None = None
    cut: CutEntry | None = None
    sha256: str | None = None

    def to_json(self) -> str:
        """JSON with sorted keys and its own digest: equal manifests give equal bytes."""
        unsaid = {DIGEST, *(name for name in (PREPROCESSING, CUT) if getattr(self, name) is None)}
        content = self.model_dump(mode="json", exclude=unsaid)
        sealed = {**content, DIGEST: content_digest(content)}
        return json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"


def packed_bytes(tensors: Iterable[TensorEntry]) -> int:
    """What the weight codes take where each is stored in its own bits."""
    return math.ceil(sum(_code_bits(entry) for entry in tensors if entry.kind == "weight") / 8)


def _code_bits(entry: TensorEntry) -> int:
    """Bits of all codes of a constant: exact integers, as channels are equally large."""
    if entry.count is None:
        raise ValueError(f"the weight {entry.name} has no count of codes")
    if entry.channel_bits is None:
        return int(entry.bits) * entry.count
    return sum(entry.channel_bits) * entry.count // len(entry.channel_bits)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`; raises InputError where there is none that can be read."""
    try:
        found = Manifest.model_validate_json(read_bounded(folder / MANIFEST))
        return found.model_copy(update={DIGEST: None})
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        hint = "Give the folder that a build wrote." if folder.exists() else nearest_path(folder)
        raise InputError(f"no artifact that can be read: {reason}", where=str(folder / MANIFEST), hint=hint) from error


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
