"""One cell of `reproduce.py`, in a process of its own: build with `compile_model`, measure the artifact, write JSON.

The build's proof and gate run on a seeded part of the evaluation set, the artifact's top-1 on all of it. What went
wrong becomes part of the record, so that the other cells of a grid go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np
import torch

from isobit import build as story
from isobit.backends.onnx.session import open_session
from isobit.calib.sources import draw
from isobit.pipeline.artifact.manifest import package_versions
from isobit.pipeline.errors import CompileError, InputError
from isobit.pipeline.memory import keep_freed_memory
from isobit.pipeline.model.modelfile import LoadedModel, load_model
from isobit.pipeline.proof.parity import LOGITS
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.coco import is_annotations, read_annotations
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.decoder import load_decoder
from isobit.pipeline.samples.inputs import ImageOptions, InputSize, open_samples
from isobit.pipeline.watcher import Quiet
from isobit.ship import PACKAGES
from tools.bench.rows import CELLS, DS_CNN, EFFICIENTNET, RESNET
from tools.code_state import code_sha256
from tools.processor import cpu_name
from tools.reproduce.plan import Cell, Images

PROOF_SEED = 0
OTHER_LEVELS = 128  # samples of the proof that the levels nobody deploys with see
BUILDS, FLOAT = "builds", "float"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Subject:
    """A trained network and its data, as paths below `--data`; see the README there.

    Args:
        model, arch: as for the command line of `compile.py`.
        images: calibration data by name.
        evaluation: labelled.
        options: how image files become samples.
        classes: the names of the model's classes, of which the folders hold some.
        metric: of the task, which the build measures on the whole evaluation set; empty for top-1.
        decoder: `file.py:function` that makes what the metric reads of the outputs; below this checkout.
    """

    model: str
    arch: str
    images: dict[Images, str]
    evaluation: str
    options: ImageOptions
    classes: str = ""
    metric: str = ""
    decoder: str = ""

    def options_at(self, data: Path) -> ImageOptions:
        """`options`, with the file of classes below `data`."""
        return replace(self.options, classes=data / self.classes) if self.classes else self.options


SUBJECTS = {
    RESNET: Subject(
        "models/resnet20_cifar10.pth", "models/resnet_cifar.py:resnet20",
        {"calib": "cifar10/calib", "pool": "cifar10/pool"}, "cifar10/val", ImageOptions(_MEAN, _STD),
    ),
    DS_CNN: Subject("models/ds_cnn_kws.pth", "models/ds_cnn.py:ds_cnn", {"calib": "kws/calib.npz"}, "kws/val.npz",
            ImageOptions()),
    EFFICIENTNET: Subject(
        "models/efficientnet_lite0_imagenet.pth", "models/efficientnet_lite.py:efficientnet_lite0",
        {"calib": "imagenet/calib"}, "imagenet/val",
        ImageOptions((127.0,), (128.0,), InputSize(None, 224, 224), pixel_range=(0.0, 255.0)), "imagenet/classes.txt",
    ),
    CELLS: Subject(
        "models/cell_detector_bccd.pth", "models/cell_detector.py:cell_detector", {"calib": "cells/train.json"},
        "cells/val.json", ImageOptions((0.5,), (0.25,), resize=(240, 320)), metric="map",
        decoder="tools/reproduce/cell_boxes.py:decode",
    ),
}


@dataclass(frozen=True)
class Request:
    """What the process of a cell is asked for.

    Args:
        data, out: folders: the data, and the records.
        proof: evaluation samples that the build proves parity on.
        key: of everything that the record depends on, kept in it.
    """

    cell: Cell
    data: Path
    out: Path
    proof: int
    key: str

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "data": str(self.data), "out": str(self.out)})

    @classmethod
    def from_json(cls, text: str) -> Request:
        """The inverse of `to_json`."""
        content = json.loads(text)
        cell = content.pop("cell")
        folders = {name: Path(content.pop(name)) for name in ("data", "out")}
        return cls(Cell(**{**cell, "sets": tuple(cell["sets"])}), **folders, **content)


class Phases(Quiet):
    """CPU and wall seconds of every stage of the build, and the process's peak of memory at its end.

    The last stage is closed by `stage("")`.
    """

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, float]] = {}
        self._open = ""
        self._started = (0.0, 0.0)

    def stage(self, name: str) -> None:
        now = time.process_time(), time.perf_counter()
        if self._open:
            cpu, wall = (end - start for end, start in zip(now, self._started, strict=True))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
            self.measured[self._open] = {"cpu_s": cpu, "wall_s": wall, "peak_rss_mb": round(peak, 1)}
        self._open, self._started = name, now


def slug(cell_id: str) -> str:
    """A file name for a cell: readable, and different for every id."""
    readable = "".join(character if character.isalnum() or character in "._=+-@" else "_" for character in cell_id)
    return f"{readable[:150]}-{hashlib.sha256(cell_id.encode()).hexdigest()[:8]}"


def record_path(out: Path, cell: Cell) -> Path:
    """Where a cell's record lies."""
    return out / f"{slug(cell.id)}.json"


def subject_of(cell: Cell) -> Subject:
    """Raises InputError where the plan names a network or images that do not exist."""
    subject = SUBJECTS.get(cell.subject)
    if subject is None or cell.images not in (None, *subject.images):
        known = ", ".join(f"{name} ({', '.join(subject.images)})" for name, subject in SUBJECTS.items())
        raise InputError(f"there is no network '{cell.subject}' with images '{cell.images}'", where=cell.id,
                         allowed=known)
    return subject


def cell_key(cell: Cell, data: Path, proof: int) -> str:
    """Hash of what a cell's numbers depend on, the code apart.

    That is the recipe's text, the model, the data with the pictures that annotations name, the length of the proof, and
    the metric with its decoder.

    Raises:
        CompileError: the recipe or the data cannot be read.
    """
    subject = subject_of(cell)
    read = () if cell.images is None else (subject.images[cell.images],)
    classes = (subject.classes,) if subject.classes else ()
    files = [data / f for f in (subject.model, subject.arch.partition(":")[0], *read, subject.evaluation, *classes)]
    for said in map(read_annotations, filter(is_annotations, [*files])):
        files += [said.root / file for file in said.files]
    if subject.decoder:
        files.append(ROOT / subject.decoder.partition(":")[0])
    judged = [f"{subject.metric} {subject.decoder}"] if subject.metric else []
    parts = [cell.id, load_recipe(cell.recipe, cell.edits).sha256, str(proof), *judged, *map(tree_sha256, files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def tree_sha256(path: Path) -> str:
    """Hash of a file, or of all files below a folder with their names."""
    if not path.exists():
        raise InputError("this is not there", where=str(path), hint="give the folder of the data by --data")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.relative_to(path.parent).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def measure(request: Request) -> dict[str, Any]:
    """Build and measure one cell; returns its record.

    Raises:
        CompileError: the cell cannot be built, or its gate failed.
    """
    cell, subject = request.cell, subject_of(request.cell)
    recipe = load_recipe(cell.recipe, cell.edits)
    model = request.data / subject.model
    loaded = load_model(model, f"{request.data / subject.arch}")
    folder = None if cell.images is None else request.data / subject.images[cell.images]
    calibration, evaluation, _ = open_samples(
        loaded, recipe, folder, request.data / subject.evaluation, subject.options_at(request.data),
        lambda pool: draw(pool, recipe.images, recipe.seed),
    )
    phases, folder = Phases(), request.out / BUILDS / slug(cell.id)
    options = story.Options(
        overwrite=True, parity_samples=min(OTHER_LEVELS, request.proof),
        metrics=(subject.metric,) if subject.metric else (),
        decoder=load_decoder(str(ROOT / subject.decoder)) if subject.decoder else None,
    )
    proof = evaluation if subject.metric else drawn(evaluation, request.proof)
    build = story.compile_model(loaded, recipe, "onnx", calibration, proof, folder, options, phases)
    phases.stage("measure the artifact")
    accuracy = _measured(build, subject.metric) if subject.metric else {
        "float": float_top1(request, loaded, evaluation), "artifact": artifact_top1(folder, evaluation),
    }
    phases.stage("")
    shutil.rmtree(folder)
    return {
        **_about(recipe, build), "phases": phases.measured, "accuracy": accuracy,
        "samples": {"calibration": build.manifest.calibration.count, "evaluation": len(evaluation)},
    }


def artifact_top1(folder: Path, evaluation: Batches) -> float:
    """Accuracy of an artifact in ONNX Runtime on the whole evaluation set."""
    session = open_session(folder / "model.onnx", threads=1, taps=False)
    return top1(lambda x: session.run(x)[LOGITS], evaluation)


def _measured(build: story.Build, metric: str) -> dict[str, float]:
    """What a metric says of the float network and of the artifact."""
    values = build.parity.to_json()["metrics"][metric]["values"]
    return {stage: values[stage] for stage in ("float", "artifact")}


def _about(recipe: Recipe, build: story.Build) -> dict[str, Any]:
    """What the build itself says: recipe, proof, units."""
    log, parity, text = build.calibrated.log, build.parity, recipe.model_dump()
    return {
        "recipe": {"name": recipe.name, "sha256": recipe.sha256, "text": recipe.to_yaml()},
        "bits": f"w{recipe.weights.bits}a{recipe.activations.bits}",
        "policy": text.get("policy"),  # recipes of methods without a paper have none
        "method": recipe.method.name, "steps": recipe.method.parameters.get("steps", 0),
        "proof": {
            "samples": parity.samples, "passed": parity.passed, **asdict(parity.deployed.codes),
            "logits_differing": parity.deployed.logits_differing, "accuracy": parity.accuracy,
        },
        "units": [asdict(unit) for unit in log],
        "undecided": sum(unit.undecided for unit in log) / len(log) if log else None,
        "kept_nearest": sum(unit.kept_nearest for unit in log),
        "synthetic": build.manifest.calibration.synthetic,
        "notes": list(build.notes),
        "last_epoch": {title: asdict(epochs[-1]) for title, epochs in build.trainings.items()},
    }


def drawn(batches: Batches, count: int) -> Batches:
    """A seeded part of a set in its order: the first samples of a folder are all of one class."""
    generator = torch.Generator().manual_seed(PROOF_SEED)
    chosen = torch.randperm(len(batches), generator=generator)[:count].sort().values.tolist()
    return replace(batches, order=tuple(batches.order[index] for index in chosen))


def top1(run: Callable[[torch.Tensor], np.ndarray], batches: Batches) -> float:
    """Share of right answers in %, of something that gives logits [N, classes]."""
    right = sum(int((run(x).argmax(axis=1) == labels.numpy()).sum()) for x, labels in batches)
    return round(100.0 * right / len(batches), 4)


def float_top1(request: Request, loaded: LoadedModel, evaluation: Batches) -> float:
    """Accuracy of the float model on the whole evaluation set; measured once, kept beside the records."""
    subject = SUBJECTS[request.cell.subject]
    parts = [tree_sha256(request.data / name) for name in (subject.model, subject.evaluation)]
    key, path = "-".join(parts), request.out / FLOAT / f"{request.cell.subject}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["top1"]
    with torch.no_grad():
        measured = top1(lambda x: loaded.module(x).numpy(), evaluation)
    write_json(path, {"key": key, "top1": measured})
    return measured


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all: a reader, or the next run, never finds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def main(arguments: Sequence[str]) -> int:
    """Run the cell of a request (JSON, the only argument); 0 says that a record was written, good or not."""
    request = Request.from_json(arguments[0])
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "id": request.cell.id, "cell": asdict(request.cell), "key": request.key, "code": code_sha256(),
        "seed": request.cell.seed, "error": None,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": package_versions(*PACKAGES),
    }
    try:
        record |= measure(request)
    except Exception as error:  # whatever it is, it is this cell's result
        traceback.print_exc()
        record["error"] = str(error) if isinstance(error, CompileError) else f"{type(error).__name__}: {error}"
    write_json(record_path(request.out, request.cell), record)
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(sys.argv[1:]))
