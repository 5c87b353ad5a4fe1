"""What is to be timed: artifacts, models as they are, and what peers make of a float model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from isobit.backends.base import BACKENDS
from isobit.backends.device.timing import Contender
from isobit.backends.onnx.device.device_runner import timed_model
from isobit.bench.peers import PEERS, open_litert
from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.artifact.manifest import read_manifest
from isobit.pipeline.errors import InputError, nearest_path, nearest_spelling

FLOAT, LITE = ".onnx", ".tflite"
ALL = "all"


@dataclass(frozen=True)
class Candidate:
    """Something that may be timed.

    Args:
        name: for people; no two have one.
        kind: `artifact`, `model` or `peer`.
        open: from batch and threads, what is timed; any error says why it cannot be.
        facts: what else is known of it, for a script.
        required: it is a failure if this is not timed.
    """

    name: str
    kind: str
    open: Callable[[int, int], Contender]
    facts: Mapping[str, str] = field(default_factory=dict)
    required: bool = True


def candidates(paths: Sequence[Path], peers: str | None, folder: Path) -> list[Candidate]:
    """A candidate for each path and then for each peer, in order.

    Args:
        paths: folders of artifacts, and models.
        peers: names of `PEERS` with commas between them, `all` that are installed, or None.
        folder: where peers write files.

    Raises:
        InputError: a path is nothing of this kind, or a peer is not known or has no float model to start from.
    """
    wanted = peer_names(peers)
    last = [Path(os.path.abspath(path)).name for path in paths]
    names = [name if last.count(name) == 1 and name not in wanted else os.path.abspath(path)
             for name, path in zip(last, paths, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"'{twice[0]}' is given twice", where="the command line")
    found = [_artifact(name, path) if path.is_dir() else _model(name, path)
             for name, path in zip(names, paths, strict=True)]
    source = next((path for path in paths if path.suffix == FLOAT and path.is_file()), None)
    if wanted and source is None:
        raise InputError("peers start from a float model, and none is given", where="--peers", field="peers",
                         hint=f"Give a float {FLOAT} file as well.")
    return [*found, *(_peer(name, source, folder, by_name=peers != ALL) for name in wanted if source is not None)]


def peer_names(text: str | None) -> list[str]:
    """Names of peers, each once; raises InputError for one that is not known."""
    if text is None:
        return []
    names = list(dict.fromkeys(PEERS if text == ALL else text.split(",")))
    for name in names:
        if name not in PEERS:
            raise InputError(f"there is no peer '{name}'", where="--peers", field="peers",
                             allowed=", ".join((ALL, *PEERS)), hint=nearest_spelling(name, (ALL, *PEERS)))
    return names


def _artifact(name: str, folder: Path) -> Candidate:
    manifest = read_manifest(folder)
    target = manifest.target

    def open_it(batch: int, threads: int) -> Contender:
        return BACKENDS.get(target.name).contender(folder, batch, threads)

    facts = {"model": manifest.model.name, "recipe": manifest.recipe.name, "target": target.name,
             "profile": target.profile, "manifest_sha256": _sha256(folder / MANIFEST)}
    return Candidate(name, "artifact", open_it, facts)


def _model(name: str, path: Path) -> Candidate:
    if not path.is_file():
        raise InputError("there is no such file or folder", where=str(path), hint=nearest_path(path))
    facts = {"sha256": _sha256(path)}
    if path.suffix == FLOAT:
        return Candidate(name, "model", partial(timed_model, str(path)), facts)
    if path.suffix == LITE:
        return Candidate(name, "model", partial(open_litert, path), facts)
    raise InputError("this kind of file is not timed", where=str(path),
                     allowed=f"folders of artifacts, {FLOAT} and {LITE} files",
                     hint="torch.onnx.export writes a PyTorch network as one.")


def _peer(name: str, source: Path, folder: Path, *, by_name: bool) -> Candidate:
    peer = PEERS[name]
    place = folder / name

    def open_it(batch: int, threads: int) -> Contender:
        peer.check()
        place.mkdir()
        return peer.open(source, place, batch, threads)

    facts = {"made_from": source.name, "source_sha256": _sha256(source)}
    return Candidate(name, "peer", open_it, facts, required=by_name or peer.is_installed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
