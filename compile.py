"""The story: a trained model goes in, an integer artifact that is proven to compute what was calibrated comes out.

    captured   = capture(model)                 pipeline   float graph, batch norm intact: the teacher
    quantized  = quantize(captured, ...)        passes     quantizers in place; topology is final
    allocation = allocate(quantized, images)    calib      a recipe with a budget of bits: then quantized once more
    calibrated = calibrate(quantized, images)   calib      numbers; the only step that wants images
    reference  = legalize(calibrated)           passes     codes frozen, immutable: the truth
    files      = backend.emit(reference)        backends   the artifact
    report     = compare(...)                   pipeline   every quantized tensor, code by code

`python compile.py MODEL --recipe qdrop_w4a4 --target onnx`; the same from Python as `compile_model(...)`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
import torch
import typer
from torch import Tensor, fx, nn

import backends
import passes
from backends import golden
from backends.base import BACKENDS, Backend
from backends.describe import tensor_table
from backends.exact import ExactArithmetic
from backends.placement import PlacementRow, placement_table
from calib.allocation import Choice, allocate, find_choices, weight_specs
from calib.calibrate import calibrate
from calib.estimate import estimate
from calib.machine import measure_machine
from calib.methods import check_needs, find_method
from calib.sources import Made, Maker, draw, find_source, make, makes_images
from pipeline import cli_options as cli
from pipeline.accuracy import judge
from pipeline.allocation import Allocation, budget_text
from pipeline.answers import KINDS, output_kind
from pipeline.artifact import (
    AllocationEntry,
    CalibrationEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    TargetEntry,
    file_table,
    package_versions,
    packed_bytes,
)
from pipeline.batching import BUDGET, plan_memory, proof_batch
from pipeline.capture import capture
from pipeline.constants import fold_constants
from pipeline.data import Batches, array_batches, check_against_model
from pipeline.digest import MANIFEST
from pipeline.errors import InputError, ParityError, RecipeError, TargetError
from pipeline.exits import exit_codes
from pipeline.graph import is_constant, quantizer_of, where
from pipeline.inputs import ImageOptions, InputShape, open_samples, parse_input_size, shape_without_data
from pipeline.layers import layer_name
from pipeline.modelfile import LoadedModel, load_model
from pipeline.observed import LOOKED_AT, look, spread
from pipeline.output import claim, failed_place, write_artifact
from pipeline.own_stdout import own_stdout
from pipeline.parity import FLOAT_ROUNDING, LOGITS, Arithmetic, ParityReport, Runner, apply_gates, compare
from pipeline.pictures import save_grid
from pipeline.recipe import BitBudget, Recipe, load_recipe
from pipeline.registry import discover
from pipeline.report import FRONTIER, PICTURES, draw_frontier, render_report
from pipeline.stages import Calibrated, EpochLog, Quantized, Reference
from pipeline.summary import build_json, build_lines, plan_json
from pipeline.terminal import Terminal, open_console
from pipeline.timings import TimedStages, write_timings
from pipeline.verdicts import headlines
from pipeline.watcher import Quiet, Watcher

VERSION = "0.1.0"
GOLDEN_SAMPLES = 16
GIGABYTE = 10**9
CHECKPOINTS = ".checkpoints"  # beside the output folder
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
        memory: bytes that batches keep to, beside the model, the samples and one unit's caches.
    """

    profile: str | None = None
    device: str = "cpu"
    overwrite: bool = False
    checkpoints: Path | None = None
    resume: bool = False
    max_drop: float | None = None
    parity_samples: int | None = 1000
    memory: float = BUDGET


@dataclass(frozen=True)
class Build:
    """What a build returns: where the artifact lies and everything that its report says.

    `trainings` holds the epochs of what was trained as a whole, by what that was.
    `folder` is the one asked for, or `<out>-failed` where the gate failed.
    """

    folder: Path
    parity: ParityReport
    manifest: Manifest
    placement: list[PlacementRow]
    calibrated: Calibrated
    notes: list[str] = field(default_factory=list)
    trainings: dict[str, list[EpochLog]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.parity.passed


class GateFailed(ParityError):
    """The artifact was built and measured, and a rule of the gate does not hold; `build` says all about it."""

    def __init__(self, build: Build, out: Path) -> None:
        failed = [rule for rule in build.parity.rules if not rule["passed"]]
        first = build.parity.to_json()["first_divergence"]
        super().__init__(
            "; ".join(f"{rule['rule']}: measured {rule['measured']}, allowed {rule['allowed']}" for rule in failed),
            where=f"first differing tensor {first['tensor']} ({first['module']})" if first else "",
            hint=f"nothing was written to {out}; the failed artifact and its parity.json are in {build.folder}",
        )
        self.build = build


def check_recipe(recipe: Recipe) -> None:
    """Refuse what the recipe names and nobody has; a method and a source judge their own parameters.

    Raises:
        RecipeError: with what there is.
    """
    method, parameters = find_method(recipe.method)
    source, _ = find_source(recipe.images)
    wanted = method.needed(parameters) & {"images", "labels"}
    if isinstance(recipe.weights.bits, BitBudget) and isinstance(source, Maker) and "images" not in source.gives:
        raise RecipeError(
            f"a budget of bits is spent by what images say, and the source '{source.name}' gives none",
            where="weights.bits", hint="Give a number of bits, or --set images.source=distilled.",
        )
    lacking = sorted(wanted - source.gives) if isinstance(source, Maker) else []
    if lacking:
        raise RecipeError(
            f"the method '{method.name}' needs {' and '.join(lacking)}, and the source '{source.name}' gives none",
            where="images.source",
        )


def plan(
    loaded: LoadedModel, recipe: Recipe, backend: Backend, example: Tensor, profile: str | None = None
) -> Quantized:
    """Capture and place quantizers: everything that can be refused before an image is read.

    Raises:
        CaptureError, RecipeError, TargetError: what cannot be honoured, where, and what can.
    """
    check_recipe(recipe)
    source = loaded.exported if loaded.exported is not None else loaded.module
    captured = capture(source, example, name=loaded.name, sha256=loaded.sha256)
    chosen = profile if profile is not None else backend.profiles[0]
    if chosen not in backend.profiles:
        raise TargetError(
            f"target '{backend.name}' has no device profile '{chosen}'", allowed=", ".join(backend.profiles)
        )
    quantized = passes.quantize(captured, recipe, backend.target(chosen))
    check_needs(recipe.method, quantized)
    for node, reason in backend.unsupported(quantized.graph):
        raise TargetError(
            f"target '{backend.name}' can compute {node.target} neither in integers nor in float: {reason}",
            where=where(node), hint="replace the operator in the model, or use --target reference",
        )
    return quantized


def bit_choices(quantized: Quantized) -> tuple[Choice, ...]:
    """What a budget of weight bits can be spent on; nothing where the recipe states the bits.

    Every option is placed, so that what the target cannot hold and what no budget can buy is refused here.

    Raises:
        RecipeError, TargetError: as from `plan`.
    """
    recipe, captured, target = quantized.recipe, quantized.captured, quantized.target
    if not isinstance(recipe.weights.bits, BitBudget):
        return ()
    return find_choices(quantized, {
        bits: weight_specs(passes.quantize(captured, recipe.at_bits(bits), target))
        for bits in recipe.weights.bits.options
    })


def decide_bits(
    quantized: Quantized, choices: Sequence[Choice], images: Tensor, options: Options, watcher: Watcher
) -> tuple[Quantized, Allocation | None]:
    """The network placed again with the best bits for every layer; itself and None where all bits are stated."""
    if all(choice.fixed is not None for choice in choices):
        return quantized, None
    watcher.stage("allocate bits")
    allocation = allocate(
        quantized, choices, images, device=options.device, progress=watcher.allocating, memory=options.memory
    )
    watcher.allocated(allocation)
    recipe = quantized.recipe.with_bits(allocation.bits)
    return passes.quantize(quantized.captured, recipe, quantized.target), allocation


def target_notes(quantized: Quantized) -> list[str]:
    """What a user of this target should know about this recipe on this graph."""
    target, recipe = quantized.target, quantized.recipe
    notes = target.notes_for(str(recipe.weights.bits), recipe.activations.bits)
    weights = (quantizer_of(quantized.graph, node) for node in quantized.graph.graph.nodes if is_constant(node))
    if any(quantizer is not None and quantizer.spec.grid.limit is not None for quantizer in weights):
        notes.append(f"weight codes keep to +-{target.weights.wide_limit}: {target.weights.wide_limit_reason}")
    return notes


def budget_notes(quantized: Quantized, choices: Sequence[Choice]) -> list[str]:
    """What a dry run cannot say, because images decide it."""
    free = sum(choice.fixed is None for choice in choices)
    if not free:
        return []
    budget = budget_text(quantized.recipe.weights.bits)
    return [f"the weight bits of {free} layers are decided from the images ({budget}); the table shows the widest"]


def method_notes(calibrated: Calibrated) -> list[str]:
    """What a user should know about how calibration went."""
    kept = [unit.title for unit in calibrated.log if unit.kept_nearest]
    if not kept:
        return []
    names = ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else "")
    return [
        f"{len(kept)} of {len(calibrated.log)} units kept nearest rounding, because learning made them no better "
        f"({names}): more method.steps may help"
    ]


def compile_model(
    loaded: LoadedModel | nn.Module,
    recipe: Recipe,
    target: str,
    calibration: Batches | InputShape,
    evaluation: Batches | None,
    out: Path,
    options: Options | None = None,
    watcher: Watcher | None = None,
) -> Build:
    """Build and prove one artifact; no other run writes to `out` meanwhile.

    Args:
        loaded: a model file as `load_model` returns it, or a module in eval mode.
        recipe: everything that changes numbers.
        target: `onnx`, `reference`, ...
        calibration: images; where the recipe's source makes them, the shape of the model's input.
        evaluation: images; their labels give the accuracies. Without an evaluation set parity is proven on the
            calibration images, or on those that the method made, and no accuracy is measured.
        out: the artifact folder. A build whose gate fails stands at `<out>-failed` instead.
        watcher: is told what happens; silent by default.

    Raises:
        CompileError: see `pipeline.errors`; nothing is left at `out`.
    """
    options = options or Options()
    with claim(out, options.overwrite, options.checkpoints):
        return _build(loaded, recipe, target, calibration, evaluation, out, options, watcher or Quiet())


def _build(
    loaded: LoadedModel | nn.Module, recipe: Recipe, target: str, calibration: Batches | InputShape,
    evaluation: Batches | None, out: Path, options: Options, told: Watcher,
) -> Build:
    """`compile_model`, where `out` is claimed."""
    watcher, backend = TimedStages(told), BACKENDS.get(target)
    loaded = loaded if isinstance(loaded, LoadedModel) else LoadedModel(loaded, None, type(loaded).__name__, "", None)
    if isinstance(calibration, Batches) and makes_images(recipe.images):
        raise RecipeError(
            f"the source '{recipe.images.source}' makes its images and reads none", where="images.source",
            hint="Give the shape of the model's input in their place (InputShape), or a recipe that draws images.",
        )
    if options.max_drop is not None and (evaluation is None or evaluation.labels is None):
        raise InputError("an accuracy gate needs labels", where="--max-drop", hint="Give --eval-data with labels.")
    watcher.stage("capture and place")
    quantized = plan(loaded, recipe, backend, calibration.example, options.profile)
    choices = bit_choices(quantized)
    check_samples(quantized, calibration, evaluation, options.max_drop)
    watcher.planned(quantized, placement_table(quantized.graph, quantized.target))
    expected = estimate(
        quantized, len(calibration) if isinstance(calibration, Batches) else None, machine=measure_machine(),
        samples=None if evaluation is None else len(evaluation),
    )
    watcher.expected(expected.text)
    watcher.expected(plan_memory(quantized.graph, options.memory).text)
    made = None
    if isinstance(calibration, InputShape):
        made = make_images(quantized, options, watcher)
        images, labels = made.images, made.labels
        calibration = array_batches(images, labels, recipe.images.batch_size, "calib", "synthetic images")
    else:
        images, labels = calibration.materialize()
    quantized, allocation = decide_bits(quantized, choices, images, options, watcher)
    placement = placement_table(quantized.graph, quantized.target)
    watcher.stage("calibrate")
    calibrated = calibrate(
        quantized, images, device=options.device, progress=watcher, checkpoints=options.checkpoints,
        resume=options.resume, data_sha256=calibration.sha256, labels=labels, memory=options.memory,
    )
    synthetic = Synthetic.of(made, calibrated)
    watcher.stage("freeze, emit and prove")
    reference, projected = passes.legalize(calibrated)
    notes = [
        *loaded.notes, *target_notes(quantized), *synthetic.notes, *method_notes(calibrated), *projected
    ]
    judged_on = evaluation
    if evaluation is None:
        evaluation, what = _instead_of_evaluation(calibration, synthetic)
        notes.insert(0, f"no evaluation data: parity is proven on {what}, no accuracy was measured")
    with write_artifact(out, options.overwrite) as folder:
        backend.emit(reference, folder)
        evaluation, emulated = _proof_part(evaluation, backend.proof_samples(folder))
        notes = [*emulated, *notes]
        parity = prove(calibrated, reference, backend, folder, evaluation, options, watcher)
        judge_accuracy(parity, calibrated, images, judged_on, options.max_drop)
        session = backend.open(folder, backend.levels[0])
        write_golden(backend.arithmetic(reference), session, evaluation, folder / golden.GOLDEN)
        backend.finish(folder)
        (folder / "parity.json").write_text(json.dumps(parity.to_json(), indent=1) + "\n", encoding="utf-8")
        if synthetic.images is not None:
            save_grid(synthetic.images, folder / PICTURES)
        if allocation is not None:
            draw_frontier(allocation, folder / FRONTIER)
        manifest = _manifest(loaded, backend, reference, calibration, made is not None, allocation, folder)
        manifest = manifest.model_copy(update={"files": file_table(folder)})
        report = render_report(
            manifest, parity, placement, calibrated.log, notes, synthetic.trainings, allocation
        )
        (folder / "report.md").write_text(report, encoding="utf-8")
        manifest = manifest.model_copy(update={"files": file_table(folder)})
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        watcher.end()
        write_timings(folder, expected.to_json(), watcher.seconds, calibrated.log, synthetic.trainings)
        build = Build(out, parity, manifest, placement, calibrated, notes, synthetic.trainings)
        if not parity.passed:
            raise GateFailed(_keep_failed(build, folder), out)
    return build


@dataclass(frozen=True)
class Synthetic:
    """What a build has to tell about images that no camera took, made by the source or by the method.

    Args:
        images: for people to look at; None where there are none.
        notes: for the report.
        trainings: epochs by what was trained.
    """

    images: Tensor | None
    notes: list[str]
    trainings: dict[str, list[EpochLog]]

    @classmethod
    def of(cls, made: Made | None, calibrated: Calibrated) -> Synthetic:
        found = calibrated.findings
        images = made.images if made is not None and len(made.images) else found.images
        trainings = {"images": made.findings.epochs if made is not None else [], "network": found.epochs}
        notes = [*(made.findings.notes if made is not None else ()), *found.notes]
        return cls(images, notes, {title: epochs for title, epochs in trainings.items() if epochs})


def check_samples(
    quantized: Quantized, calibration: Batches | InputShape, evaluation: Batches | None, max_drop: float | None
) -> None:
    """Refuse samples and labels that do not fit the model; labels are judged where something reads them.

    Raises:
        InputError: they do not fit, or an accuracy gate has no accuracy to judge.
    """
    captured = quantized.captured
    kind = output_kind(captured.output_shape)
    method, parameters = find_method(quantized.recipe.method)
    taught = "labels" in method.needed(parameters)
    if isinstance(calibration, Batches):
        classes = captured.num_classes if kind == "classes" or taught else None
        check_against_model(calibration, captured.input_shape, classes)
    if evaluation is not None:
        check_against_model(evaluation, captured.input_shape, captured.num_classes if kind == "classes" else None)
    if max_drop is not None and kind != "classes":
        raise InputError(
            f"an accuracy gate compares labels with classes, and the model gives {KINDS[kind]}", where="--max-drop",
            hint="Leave it out; parity.json has the agreement and the distance of the outputs.",
        )


def judge_accuracy(
    parity: ParityReport, calibrated: Calibrated, images: Tensor, evaluation: Batches | None, max_drop: float | None
) -> None:
    """Write the verdict on accuracy into the report, and what the samples look like.

    Args:
        images: that calibration saw, [N, C, H, W]; N may be 0.
        evaluation: None where the calibration set took its place.
    """
    samples = None
    if evaluation is not None:
        samples, _ = evaluation.select(spread(len(evaluation), LOOKED_AT)).materialize()
    parity.seen = look(calibrated.graph, images, samples)
    parity.judged = judge(parity.answers, parity.seen, max_drop)


def make_images(quantized: Quantized, options: Options, watcher: Watcher) -> Made:
    """The images that the recipe's source makes, as a stage of its own where there are any."""
    if quantized.recipe.images.count:
        watcher.stage("make images")
    return make(
        quantized, device=options.device, progress=watcher, checkpoints=options.checkpoints, resume=options.resume
    )


def _instead_of_evaluation(calibration: Batches, synthetic: Synthetic) -> tuple[Batches, str]:
    """What parity is proven on without evaluation data, and its name; raises InputError where nothing is there."""
    if len(calibration):
        return calibration.without_labels(), "the calibration images"
    if synthetic.images is None:
        raise InputError(
            "there are no images to prove parity on: the recipe has none and its method made none",
            where="--eval-data", hint="Give images to prove it on.",
        )
    batch = calibration.batch_size
    return array_batches(synthetic.images, None, batch, "eval", "synthetic images"), "the images that the method made"


def _proof_part(evaluation: Batches, samples: int | None) -> tuple[Batches, list[str]]:
    """The evaluation samples that an emulated artifact is proven on, spread over all, and a note that says so."""
    if samples is None or samples >= len(evaluation):
        return evaluation, []
    chosen = [evaluation.order[place] for place in spread(len(evaluation), samples)]
    note = f"proven and measured on {samples} of {len(evaluation):,} samples: the artifact's processor is emulated here"
    return replace(evaluation, order=tuple(chosen)), [note]


def prove(
    calibrated: Calibrated, reference: Reference, backend: Backend, folder: Path, evaluation: Batches,
    options: Options, watcher: Watcher,
) -> ParityReport:
    """Run the artifact at every optimisation level on the evaluation data and compare it with the reference."""
    quantized, device = calibrated.quantized, torch.device(options.device)
    stages = {
        "float": _on_device(quantized.captured.graph, device),
        "calibrated": _on_device(fold_constants(calibrated.graph), device),
    }
    report = compare(
        replace(evaluation, batch_size=proof_batch(reference.graph, options.memory)),
        stages,
        backend.arithmetic(reference),
        {level: backend.open(folder, level) for level in backend.levels},
        gated=backend.gated_levels,
        exact=ExactArithmetic(reference),
        other_samples=options.parity_samples,
        modules={node.name: layer_name(node) for node in reference.graph.graph.nodes},
        progress=lambda samples: watcher.proving(samples, len(evaluation)),
    )
    report.integer_ops = dict(backend.integer_ops(folder))
    apply_gates(report, max_drop=options.max_drop)
    return report


def write_golden(arithmetic: Arithmetic, session: Runner, evaluation: Batches, path: Path) -> None:
    """Write inputs and the integers that any device must give for them: what `run.py` replays.

    Codes right behind float operators are the session's own, with how far another library's may lie from them; what
    follows from them is computed here.
    """
    x, _ = next(iter(evaluation))
    x = x[:GOLDEN_SAMPLES]
    got = session.run(x) if arithmetic.float_boundaries else {}
    followed = arithmetic.follow(x, got)
    arrays = {golden.INPUT: x.numpy(), golden.LOGITS: followed.results[LOGITS]}
    for name, codes in followed.results.items():
        if name in followed.bounds:
            arrays.update(golden.near_codes(name, got[name], codes, *followed.bounds[name]))
        elif name != LOGITS:
            arrays[golden.CODE + name] = codes
    if arithmetic.float_output:
        arrays[golden.FLOAT_OUTPUT] = np.float32(FLOAT_ROUNDING)
    np.savez_compressed(path, **arrays)


def _on_device(graph: fx.GraphModule, device: torch.device) -> Callable[[Tensor], Tensor]:
    graph = graph if device.type == "cpu" else copy.deepcopy(graph).to(device)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return graph(x.to(device))

    return run


def _manifest(
    loaded: LoadedModel, backend: Backend, reference: Reference, calibration: Batches, synthetic: bool,
    allocation: Allocation | None,
    folder: Path,
) -> Manifest:
    recipe, target = reference.quantized.recipe, reference.quantized.target
    tensors = tensor_table(reference.graph, target)
    return Manifest(
        version=VERSION,
        recipe=RecipeEntry(name=recipe.name, policy=recipe.policy, text=recipe.to_yaml(), sha256=recipe.sha256),
        model=ModelEntry(
            name=loaded.name, sha256=loaded.sha256, arch=None if loaded.arch is None else PurePath(loaded.arch).name
        ),
        calibration=CalibrationEntry(
            kind=recipe.images.source, sha256=calibration.sha256, count=len(calibration), synthetic=synthetic
        ),
        target=TargetEntry(name=target.name, profile=target.profile, runtime=dict(backend.versions())),
        packages=package_versions(*PACKAGES),
        seed=recipe.seed,
        tensors=tensors,
        files={},
        allocation=None if allocation is None else AllocationEntry(
            budget=budget_text(allocation.budget), bits=dict(allocation.bits), average=allocation.average,
            omega=allocation.chosen.omega, images=allocation.images,
        ),
        sizes={**backend.sizes(folder), "weights_packed": packed_bytes(tensors)},
    )


def _keep_failed(build: Build, folder: Path) -> Build:
    """Put the failed artifact beside its place, for inspection."""
    kept = failed_place(build.folder)
    with write_artifact(kept, overwrite=True) as copy_folder:
        shutil.copytree(folder, copy_folder, dirs_exist_ok=True)
    return replace(build, folder=kept)


# --- the command line ---

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=cli.NumbersSideBySide, help=cli.HELP)
def main(
    model: cli.ModelFile,
    arch: cli.Arch = None,
    weights: cli.WeightsKey = None,
    recipe: cli.RecipeName = "qdrop_w4a4",
    target: cli.TargetName = "onnx",
    device_profile: cli.DeviceProfile = None,
    sets: cli.Sets = None,
    seed: cli.Seed = None,
    calib_data: cli.CalibData = None,
    eval_data: cli.EvalData = None,
    mean: cli.Mean = None,
    std: cli.Std = None,
    input_size: cli.InputSize = None,
    out: cli.Out = None,
    overwrite: cli.Overwrite = False,
    device: cli.DeviceName = "auto",
    max_drop: cli.MaxDrop = None,
    parity_samples: cli.ParitySamples = 1000,
    memory: cli.MemoryBudget = BUDGET / GIGABYTE,
    dry_run: cli.DryRun = False,
    resume: cli.Resume = False,
    as_json: cli.Json = False,
    trust_pickle: cli.TrustPickle = False,
    debug: cli.Debug = False,
) -> None:
    """See `cli_options.HELP`."""
    with ExitStack() as stack:
        stdout = stack.enter_context(own_stdout()) if as_json else sys.stdout
        terminal = Terminal(open_console(stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=as_json, debug=debug))
        chosen, backend = load_recipe(recipe, cli.recipe_edits(sets, seed)), BACKENDS.get(target)
        check_recipe(chosen)
        out = cli.plain_out(out or cli.default_out(model.stem, chosen.name, target))
        terminal.checkpoints = out.parent / CHECKPOINTS / out.name
        options = Options(
            device_profile, cli.resolve_device(device), overwrite, terminal.checkpoints, resume, max_drop,
            parity_samples, memory * GIGABYTE,
        )
        images = ImageOptions(mean, std, parse_input_size(input_size))
        if dry_run:
            terminal.stage("load")
            loaded = load_model(model, arch, trust_pickle, weights)
            _dry_run(terminal, loaded, chosen, backend, images, calib_data, options, as_json)
            return
        check_data(chosen, calib_data)
        inputs = {"MODEL": model, "--recipe": Path(recipe), "--calib-data": calib_data, "--eval-data": eval_data}
        with claim(out, overwrite, terminal.checkpoints, inputs):
            terminal.stage("load")
            loaded = load_model(model, arch, trust_pickle, weights)
            makes = makes_images(chosen.images)
            calibration, evaluation, notes = open_samples(
                loaded, chosen, None if makes else calib_data, eval_data, images,
                lambda pool: draw(pool, chosen.images, chosen.seed),
            )
            if makes and calib_data is not None:
                notes.append(f"--calib-data is not read: the recipe's images.source is '{chosen.images.source}'")
            for note in notes:
                terminal.note(note)
            try:
                build = _build(loaded, chosen, target, calibration, evaluation, out, options, terminal)
            except GateFailed as failed:
                build = failed.build
            _show(terminal, build, backend, as_json)
            if not build.passed:
                raise typer.Exit(int(GateFailed.exit_code))
            shutil.rmtree(terminal.checkpoints, ignore_errors=True)
        with contextlib.suppress(OSError):  # of other artifacts beside this one
            terminal.checkpoints.parent.rmdir()


def check_data(recipe: Recipe, calib_data: Path | None) -> None:
    """Raises InputError where the recipe's source draws from data and none is given."""
    if calib_data is None and not makes_images(recipe.images):
        raise InputError(
            f"the method '{recipe.method.name}' needs images, and the source '{recipe.images.source}' draws from data",
            where="--calib-data", hint="Give a folder of images or an .npz; --dry-run needs none. Or take a recipe "
            "whose images are made: --set images.source=distilled",
        )


def _dry_run(
    terminal: Terminal, loaded: LoadedModel, recipe: Recipe, backend: Backend, images: ImageOptions,
    calib_data: Path | None, options: Options, as_json: bool,
) -> None:
    """Everything that can be refused before data is read, and where every layer will run."""
    shape = shape_without_data(loaded, images.size, calib_data)
    quantized = plan(loaded, recipe, backend, shape.example, options.profile)
    placement = placement_table(quantized.graph, quantized.target)
    notes = [*loaded.notes, *target_notes(quantized), *budget_notes(quantized, bit_choices(quantized))]
    expected, memory = estimate(quantized, machine=measure_machine()), plan_memory(quantized.graph, options.memory)
    if as_json:
        terminal.show_json(plan_json(quantized, placement, notes, expected.to_json() | {"memory": memory.to_json()}))
    else:
        terminal.show_plan(quantized, placement, notes, shape.source, f"{expected.text}; {memory.text}")


def _show(terminal: Terminal, build: Build, backend: Backend, as_json: bool) -> None:
    """The final screen, or the final JSON object."""
    if as_json:
        log = build.calibrated.log
        terminal.show_json(
            build_json(
                build.folder, build.manifest, build.parity, build.notes, log, terminal.seconds, build.trainings
            )
        )
        return
    lines = build_lines(build.folder, build.manifest, build.parity, backend.model_file, backend.device_needs)
    terminal.show_build(headlines(build.parity), lines, build.notes)


if __name__ == "__main__":
    app()
