"""Finished units and epochs on disk, so that an interrupted calibration goes on where it stopped.

One safetensors file a unit, or one file for the state of a training, written under another name and renamed, in a
folder named after everything that the numbers depend on: another model, recipe, data set, target or engine never finds
the wrong file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isobit.calib.run_facts import FACTS, KIND, read_facts, why_not_resumed
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.stages import EpochLog, UnitLog

# Raise it when a change of the engine changes results.
ENGINE_VERSION = 2
TRAINING = "training.pt"


def run_key(*facts: str) -> str:
    """Hex digest of everything that the result depends on, the engine's version included."""
    digest = hashlib.sha256()
    for fact in (str(ENGINE_VERSION), *facts):
        digest.update(len(fact).to_bytes(8, "little") + fact.encode())
    return digest.hexdigest()


def _has_files(folder: Path) -> bool:
    """Whether units or a training are kept there."""
    return folder.is_dir() and any(path.suffix in (".safetensors", ".pt") for path in folder.iterdir())


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    """Hex digest of the values and shapes of `tensors`."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class UnitCheckpoints:
    """The finished units of one run.

    Args:
        folder: made when the first unit is saved.
        key: of `run_key`; runs with other keys keep their own files beside.
        facts: what the key was made of, by name, for `why_not_resumed`.
    """

    def __init__(self, folder: Path, key: str, facts: Mapping[str, str] | None = None) -> None:
        self.folder, self.key, self.facts = Path(folder) / key[:16], key, dict(facts or {})

    @classmethod
    def of(cls, folder: Path, facts: Mapping[str, str]) -> UnitCheckpoints:
        """Those of the run that depends on `facts`."""
        return cls(folder, run_key(*facts.values()), {**facts, "engine": str(ENGINE_VERSION)})

    def why_not_resumed(self) -> str:
        """Why a run that was to be resumed starts anew, in a sentence; empty where it has something to go on from."""
        if _has_files(self.folder):
            return ""
        beside = self.folder.parent.iterdir() if self.folder.parent.is_dir() else ()
        others = [read_facts(folder) for folder in sorted(beside) if _has_files(folder)]
        kind = self.facts.get(KIND)
        return why_not_resumed(self.facts, [one for one in others if one is None or one.get(KIND) == kind])

    def _path(self, index: int, stage: str) -> Path:
        return self.folder / f"{stage or 'unit'}-{index:04d}.safetensors"

    def save(self, index: int, log: UnitLog, tensors: Mapping[str, Tensor]) -> None:
        """Write unit `index` of the log's stage; raises CalibrationError where the disk does not take it."""
        metadata = {"key": self.key, "log": json.dumps(dataclasses.asdict(log))}
        kept = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        self._write(self._path(index, log.stage), lambda partial: save_file(kept, partial, metadata))

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Have `write` fill another file, which then takes the place of `path`."""
        partial = path.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.facts and not (self.folder / FACTS).is_file():
                partial.write_text(json.dumps(self.facts, indent=1), encoding="utf-8")
                os.replace(partial, self.folder / FACTS)
            write(partial)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise CalibrationError(
                f"the checkpoint cannot be written: {error}", where=str(path), hint="free space or use another folder"
            ) from error

    def load(self, index: int, name: str, stage: str = "") -> tuple[UnitLog, dict[str, Tensor]] | None:
        """What `save` wrote for unit `index` of `stage`, called `name`; None without a readable file of this run."""
        path = self._path(index, stage)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError):
            return None
        if metadata.get("key") != self.key:
            return None
        log = UnitLog(**json.loads(metadata["log"]))
        return (log, tensors) if log.name == name else None

    def save_training(self, state: Mapping[str, Any], epochs: Iterable[EpochLog], settings: str = "") -> None:
        """Write the state of a training after its last finished epoch, over the one before.

        Args:
            state: tensors, numbers, strings, and lists and dicts of such.
            settings: what the training depends on and units do not, which keep theirs when it changes.
        """
        logs = [dataclasses.asdict(log) for log in epochs]
        content = {"key": self.key, "settings": settings, "state": dict(state), "epochs": logs}
        archive = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
        torch.save(content, archive)
        self._write(self.folder / TRAINING, lambda partial: partial.write_bytes(archive.getbuffer()))

    def load_training(self, settings: str = "") -> tuple[dict[str, Any], list[EpochLog]] | None:
        """What `save_training` wrote; None without a readable file of this run and of these `settings`."""
        path = self.folder / TRAINING
        if not path.is_file():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # half a file makes the unpickler stumble in any way that there is
            return None
        if (content.get("key"), content.get("settings")) != (self.key, settings):
            return None
        return content["state"], [EpochLog(**log) for log in content["epochs"]]
