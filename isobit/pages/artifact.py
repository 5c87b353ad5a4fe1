"""An artifact's folder as pages read it: manifest, facts and proof, checked before anything is drawn of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isobit.pipeline.artifact.manifest import Manifest, TensorEntry, read_manifest, sha256_file
from isobit.pipeline.artifact.reading import read_bounded
from isobit.pipeline.errors import InputError
from isobit.pipeline.facts.record import FACTS, Facts, TensorFacts, read_facts

PROOF = "parity.json"


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Level(_Lenient):
    """One optimisation level against the target's integer arithmetic; see docs/numerics.md."""

    level: str
    gated: bool
    samples: int
    compared: int
    differing: int


class Rule(_Lenient):
    """A rule of the gate: what was measured, and what is allowed."""

    rule: str
    measured: float | str
    allowed: float
    passed: bool


class Gate(_Lenient):
    """All rules, and whether each holds."""

    passed: bool
    rules: list[Rule]


class Codes(_Lenient):
    """How many codes were compared, and how many differ."""

    compared: int
    differing: int
    max_lsb: int


class Kernels(_Lenient):
    """Kernels that the runtime computes in float, each with its reason."""

    reasons: dict[str, Any] = {}


class Output(_Lenient):
    """How far every stage's values of one output of the network are from float's."""

    signal_to_noise_db: dict[str, float | None] = {}


class Said(_Lenient):
    """A part of the proof, in one line."""

    text: str = ""


class Proof(_Lenient):
    """What pages show of `parity.json`."""

    samples: int
    codes: Codes
    gate: Gate
    levels: list[Level]
    moved_by_requantization: Codes
    integer_ops: Kernels
    output_values: dict[str, Output] = {}
    every_input: Said | None = None
    read_back: Said | None = None
    directed: Said | None = None


@dataclass(frozen=True)
class Artifact:
    """One folder; `name` is the folder's own."""

    name: str
    manifest: Manifest
    facts: Facts
    proof: Proof

    def tensors(self) -> dict[str, TensorFacts]:
        """What was measured, by the tensor's name."""
        return {one.name: one for one in self.facts.tensors}

    def entries(self) -> dict[str, TensorEntry]:
        """What the manifest says, by the tensor's name."""
        return {entry.name: entry for entry in self.manifest.tensors}


def open_artifact(folder: Path, manifest: Manifest | None = None) -> Artifact:
    """The artifact in `folder`; facts and proof are those whose hashes its manifest lists.

    Args:
        manifest: where none is written yet; nothing is compared with it.

    Raises:
        InputError: it is none, or one that no page can be made of.
    """
    written = read_manifest(folder) if manifest is None else manifest
    found = Artifact(folder.resolve().name, written, read_facts(folder), _read_proof(folder / PROOF))
    if manifest is None:
        for name in (FACTS, PROOF):
            _check_listed(folder / name, written)
    return found


def _check_listed(path: Path, manifest: Manifest) -> None:
    listed = manifest.files.get(path.name)
    if listed is None or listed.sha256 != sha256_file(path):
        raise InputError(f"{path.name} is not the one that the manifest lists", where=str(path), field="artifact",
                         hint="Copy the artifact again, or build it again.")


def _read_proof(path: Path) -> Proof:
    try:
        return Proof.model_validate_json(read_bounded(path))
    except (OSError, ValidationError) as error:
        raise InputError(f"no proof that can be read: {str(error).splitlines()[0]}", where=str(path),
                         field="artifact") from error
