"""The story: a trained model goes in, an integer artifact that is proven to compute what was calibrated comes out.

    captured   = capture(model)                 pipeline   float graph, batch norm intact: the teacher
    quantized  = quantize(captured, ...)        passes     quantizers in place; topology is final
    calibrated = calibrate(quantized, images)   calib      numbers; the only step that wants images
    reference  = legalize(calibrated)           passes     codes frozen, immutable: the truth
    files      = backend.emit(reference)        backends   the artifact
    report     = compare(...)                   pipeline   every quantized tensor, code by code

`python compile.py MODEL --recipe qdrop_w4a4 --target onnx`; the same from Python as `compile_model(...)`.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

import backends
import passes
from backends.base import BACKENDS, Backend
from backends.describe import tensor_table
from backends.exact import ExactArithmetic
from backends.placement import PlacementRow, placement_table
from calib.calibrate import calibrate
from pipeline.artifact import (
    CalibrationEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    TargetEntry,
    check_out,
    file_table,
    package_versions,
    write_artifact,
)
from pipeline.capture import capture
from pipeline.data import Batches, check_against_model
from pipeline.errors import ParityError, TargetError
from pipeline.graph import module_path, where
from pipeline.modelfile import LoadedModel
from pipeline.parity import LOGITS, ParityReport, Runner, apply_gates, compare
from pipeline.recipe import Recipe
from pipeline.registry import discover
from pipeline.report import render_report
from pipeline.stages import Calibrated, Quantized, Reference
from pipeline.watcher import Quiet, Watcher

VERSION = "0.1.0"
GOLDEN_SAMPLES = 16
PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript")

discover(backends)


@dataclass(frozen=True)
class Options:
    """How to build; what does not change numbers.

    Args:
        profile: device profile of the target; None for its default.
        device: where calibration and float evaluation run.
        overwrite: replace an artifact that stands at `out`.
        checkpoints: folder of per-unit checkpoints; None for none.
        resume: continue from them.
        max_drop: most top-1 points that float -> artifact may lose; None for no accuracy gate.
        parity_samples: how many samples the levels other than the deployed one see; None for all.
    """

    profile: str | None = None
    device: str = "cpu"
    overwrite: bool = False
    checkpoints: Path | None = None
    resume: bool = False
    max_drop: float | None = None
    parity_samples: int | None = 1000


@dataclass(frozen=True)
class Build:
    """What a build returns: where the artifact lies and everything that its report says."""

    folder: Path
    parity: ParityReport
    manifest: Manifest
    placement: list[PlacementRow]
    calibrated: Calibrated
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.parity.passed


def plan(
    loaded: LoadedModel, recipe: Recipe, backend: Backend, example: Tensor, profile: str | None = None
) -> Quantized:
    """Capture and place quantizers: everything that can be refused before an image is read.

    Raises:
        CaptureError, RecipeError, TargetError: what cannot be honoured, where, and what can.
    """
    source = loaded.exported if loaded.exported is not None else loaded.module
    captured = capture(source, example, name=loaded.name, sha256=loaded.sha256)
    chosen = profile if profile is not None else backend.profiles[0]
    if chosen not in backend.profiles:
        raise TargetError(
            f"target '{backend.name}' has no device profile '{chosen}'", allowed=", ".join(backend.profiles)
        )
    quantized = passes.quantize(captured, recipe, backend.target(chosen))
    for node, reason in backend.unsupported(quantized.graph):
        raise TargetError(
            f"target '{backend.name}' can compute {node.target} neither in integers nor in float: {reason}",
            where=where(node), hint="replace the operator in the model, or use --target reference",
        )
    return quantized


def compile_model(
    loaded: LoadedModel | nn.Module,
    recipe: Recipe,
    target: str,
    calibration: Batches,
    evaluation: Batches,
    out: Path,
    options: Options | None = None,
    watcher: Watcher | None = None,
) -> Build:
    """Build and prove one artifact.

    Args:
        loaded: a model file as `load_model` returns it, or a module in eval mode.
        recipe: everything that changes numbers.
        target: `onnx`, `reference`, ...
        calibration, evaluation: images; labels of `evaluation` give the accuracies.
        out: the artifact folder. A build whose gate fails stands at `<out>-failed` instead.
        watcher: is told what happens; silent by default.

    Raises:
        CompileError: see `pipeline.errors`; nothing is left at `out`.
    """
    options, watcher, backend = options or Options(), watcher or Quiet(), BACKENDS.get(target)
    loaded = loaded if isinstance(loaded, LoadedModel) else LoadedModel(loaded, None, type(loaded).__name__, "", None)
    check_out(out, options.overwrite)
    watcher.stage("capture and place")
    quantized = plan(loaded, recipe, backend, calibration.example, options.profile)
    for batches in (calibration, evaluation):
        check_against_model(batches, quantized.captured.input_shape, quantized.captured.num_classes)
    placement = placement_table(quantized.graph, quantized.target)
    watcher.planned(quantized, placement)
    watcher.stage("calibrate")
    images, _ = calibration.materialize()
    calibrated = calibrate(
        quantized, images, device=options.device, progress=watcher, checkpoints=options.checkpoints,
        resume=options.resume, data_sha256=calibration.sha256,
    )
    watcher.stage("freeze, emit and prove")
    reference, notes = passes.legalize(calibrated)
    with write_artifact(out, options.overwrite) as folder:
        backend.emit(reference, folder)
        parity = prove(calibrated, reference, backend, folder, evaluation, options, watcher)
        write_golden(backend.arithmetic(reference), evaluation, folder / "golden.npz")
        (folder / "parity.json").write_text(json.dumps(parity.to_json(), indent=1) + "\n", encoding="utf-8")
        manifest = _manifest(loaded, recipe, backend, reference, calibration, folder)
        manifest = manifest.model_copy(update={"files": file_table(folder)})
        report = render_report(manifest, parity, placement, calibrated.log, notes)
        (folder / "report.md").write_text(report, encoding="utf-8")
        manifest = manifest.model_copy(update={"files": file_table(folder)})
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        build = Build(out, parity, manifest, placement, calibrated, notes)
        if not parity.passed:
            raise _gate_failed(build, folder, out.with_name(out.name + "-failed"))
    return build


def prove(
    calibrated: Calibrated, reference: Reference, backend: Backend, folder: Path, evaluation: Batches,
    options: Options, watcher: Watcher,
) -> ParityReport:
    """Run the artifact at every optimisation level on the evaluation data and compare it with the reference."""
    quantized, device = calibrated.quantized, torch.device(options.device)
    stages = {
        "float": _on_device(quantized.captured.graph, device),
        "calibrated": _on_device(calibrated.graph, device),
    }
    report = compare(
        evaluation,
        stages,
        backend.arithmetic(reference),
        {level: backend.open(folder, level) for level in backend.levels},
        gated=backend.gated_levels,
        exact=ExactArithmetic(reference),
        other_samples=options.parity_samples,
        modules={node.name: module_path(node) for node in reference.graph.graph.nodes},
        progress=lambda samples: watcher.proving(samples, len(evaluation)),
    )
    report.integer_ops = dict(backend.integer_ops(folder))
    apply_gates(report, max_drop=options.max_drop)
    return report


def write_golden(arithmetic: Runner, evaluation: Batches, path: Path) -> None:
    """Write inputs and the integers that any device must give for them: what `run.py` replays."""
    x, _ = next(iter(evaluation))
    x = x[:GOLDEN_SAMPLES]
    expected = arithmetic.run(x)
    codes = {f"code:{name}": value for name, value in expected.items() if name != LOGITS}
    np.savez_compressed(path, input=x.numpy(), logits=expected[LOGITS], **codes)


def _on_device(graph: fx.GraphModule, device: torch.device) -> Callable[[Tensor], Tensor]:
    graph = graph if device.type == "cpu" else copy.deepcopy(graph).to(device)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return graph(x.to(device))

    return run


def _manifest(
    loaded: LoadedModel, recipe: Recipe, backend: Backend, reference: Reference, calibration: Batches, folder: Path
) -> Manifest:
    target = reference.quantized.target
    tensors = tensor_table(reference.graph, target)
    weight_bits = sum(entry.bits * entry.count for entry in tensors if entry.kind == "weight")
    return Manifest(
        version=VERSION,
        recipe=RecipeEntry(name=recipe.name, text=recipe.to_yaml(), sha256=recipe.sha256),
        model=ModelEntry(name=loaded.name, sha256=loaded.sha256, arch=loaded.arch),
        calibration=CalibrationEntry(kind=recipe.images.source, sha256=calibration.sha256, count=len(calibration)),
        target=TargetEntry(name=target.name, profile=target.profile, runtime=dict(backend.versions())),
        packages=package_versions(*PACKAGES),
        seed=recipe.seed,
        tensors=tensors,
        files={},
        sizes={"model": (folder / backend.model_file).stat().st_size, "weights_packed": -(-weight_bits // 8)},
    )


def _gate_failed(build: Build, folder: Path, kept: Path) -> ParityError:
    """Keep the failed artifact beside its place, for inspection, and say which rules failed."""
    with write_artifact(kept, overwrite=True) as copy_folder:
        shutil.copytree(folder, copy_folder, dirs_exist_ok=True)
    failed = [rule for rule in build.parity.rules if not rule["passed"]]
    first = build.parity.to_json()["first_divergence"]
    error = ParityError(
        "; ".join(f"{rule['rule']}: measured {rule['measured']}, allowed {rule['allowed']}" for rule in failed),
        where=f"first differing tensor {first['tensor']} ({first['module']})" if first else "",
        hint=f"nothing was written to {build.folder}; the failed artifact and its parity.json are in {kept}",
    )
    error.build = build
    return error
