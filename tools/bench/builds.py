"""Builds for the benches, through `compile_model` like any user's; kept, and reused while nothing they depend on moved.

Next to every artifact lies `<name>.json`: what was measured, and the key (recipe, model, data, code, packages).
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isobit import build as story
from isobit.pipeline.artifact.manifest import package_versions
from isobit.pipeline.errors import ParityError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.shipping.ship import PACKAGES
from tools.bench.subjects import Subject
from tools.code_state import code_sha256

LATENCY_RECIPE = "minmax_w8a8"


@dataclass(frozen=True)
class Settings:
    """What all builds of a run have in common.

    Args:
        folder: where artifacts are kept.
        steps: of reconstruction, per unit.
        images: calibration images; None for the recipe's number.
        fresh: build again what is there.
    """

    folder: Path
    steps: int = 1000
    images: int | None = None
    fresh: bool = False


def build(subject: Subject, recipe_name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Build, or take what was built from the same things; returns the record that `bench.json` keeps."""
    recipe = _recipe(recipe_name, seed, settings)
    loaded = subject.load()
    calibration, evaluation = subject.calibration(recipe.images.count, seed), subject.evaluation()
    key = {
        "recipe": recipe.sha256, "model": loaded.sha256 or _weights_sha256(loaded), "code": code_sha256(),
        "calibration": calibration.sha256, "evaluation": evaluation.sha256,
        "packages": package_versions(*PACKAGES),
    }
    name = f"{subject.name}-{recipe_name}-{recipe.method.parameters.get('steps', 0)}-{seed}"
    out, record_path = settings.folder / name, settings.folder / f"{name}.json"
    if not settings.fresh and record_path.is_file():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["key"] == key and (settings.folder / record["artifact"] / "model.onnx").is_file():
            return {**record, "reused": True}
    started, cpu = time.perf_counter(), time.process_time()
    made = _compile(loaded, recipe, calibration, evaluation, out)
    folder = out if made.passed else out.with_name(f"{out.name}-failed")
    record = {
        "key": key, "subject": subject.name, "recipe": recipe_name, "seed": seed, "artifact": folder.name,
        "steps": recipe.method.parameters.get("steps", 0), "passed": made.passed, "reused": False,
        "accuracy": made.parity.accuracy, "samples": made.parity.samples,
        "levels": made.parity.to_json()["levels"],
        "moved_by_requantization": asdict(made.parity.moved_by_requantization),
        "integer_ops": made.parity.integer_ops, "model_bytes": (folder / "model.onnx").stat().st_size,
        "wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
        "calibration_wall_s": sum(log.seconds for log in made.calibrated.log),
    }
    record_path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _compile(loaded: LoadedModel, recipe: Recipe, calibration: Any, evaluation: Any, out: Path) -> story.Build:
    """The build, also where its gate failed: the bench reports that, it does not hide it."""
    options = story.Options(overwrite=True, parity_samples=None)
    try:
        return story.compile_model(loaded, recipe, "onnx", calibration, evaluation, out, options)
    except ParityError as error:
        return error.build


def _recipe(name: str, seed: int, settings: Settings) -> Recipe:
    edits = [f"seed={seed}"]
    if "steps" in load_recipe(name).method.parameters:
        edits.append(f"method.steps={settings.steps}")
    if settings.images is not None:
        edits += [f"images.count={settings.images}", f"images.batch_size={min(32, settings.images)}"]
    return load_recipe(name, edits)


def _weights_sha256(loaded: LoadedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in loaded.module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
