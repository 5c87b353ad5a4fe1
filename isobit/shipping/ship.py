"""From a reference to a folder that is proven: emit, prove, golden vectors, manifest, report.

Nothing here changes a number: what is written was decided by calibration and frozen before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from isobit import __version__
from isobit.backends.base import Backend
from isobit.backends.describe import tensor_table
from isobit.backends.device import golden
from isobit.backends.device.probe import PROBE
from isobit.backends.device.replay import CannotCheck
from isobit.backends.placement import PlacementRow, placement_table
from isobit.facts import Shown, attempted, frontier_facts, write_facts
from isobit.latency import beside_float, processor_name
from isobit.pages.frontier import frontier_svg
from isobit.pages.report import PAGE, write_page
from isobit.pipeline.artifact.certificate import write_certificate
from isobit.pipeline.artifact.digest import DECODER, MANIFEST
from isobit.pipeline.artifact.manifest import (
    AllocationEntry,
    CalibrationEntry,
    CutEntry,
    Manifest,
    ModelEntry,
    PreprocessingEntry,
    RecipeEntry,
    TargetEntry,
    file_table,
    package_versions,
    packed_bytes,
)
from isobit.pipeline.artifact.output import failed_place, write_artifact
from isobit.pipeline.artifact.report import FRONTIER, PICTURES, render_report
from isobit.pipeline.artifact.timings import Latency, TimedStages, write_timings
from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.facts.record import FACTS
from isobit.pipeline.graph.ports import input_names
from isobit.pipeline.proof.accuracy import judge
from isobit.pipeline.proof.arithmetic import Arithmetic, Runner
from isobit.pipeline.proof.counts import FLOAT_ROUNDING, within_a_step
from isobit.pipeline.proof.observed import LOOKED_AT, look, spread
from isobit.pipeline.proof.parity import ParityReport
from isobit.pipeline.recipe.allocation import Allocation, budget_text
from isobit.pipeline.samples.data import Batches, array_batches
from isobit.pipeline.samples.decoder import Decoder
from isobit.pipeline.samples.network_inputs import Inputs, part, tensors
from isobit.pipeline.samples.pictures import save_grid
from isobit.pipeline.samples.preparation import record_of
from isobit.pipeline.stages import Calibrated, Reference
from isobit.result import Build, GateFailed, Options
from isobit.shipping.probe import LIMIT
from isobit.shipping.prove import proof_part, prove
from isobit.shipping.shipment import Shipment, Synthetic

GOLDEN_SAMPLES = 16
NO_PREDICTOR = "no predict.py and no copy of the decoder: how a picture becomes the input is known of image files alone"
# What Isobit itself reads and writes with, whatever the target; a target names its own (`Backend.packages`).
PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnx-ir", "onnxruntime")


def ship(shipment: Shipment, out: Path, options: Options, watcher: TimedStages) -> Build:
    """Write the artifact, prove it, and say everything about it.

    Raises:
        GateFailed: a rule of the gate does not hold; the folder stands beside `out`.
        InputError: there is no image to prove anything on.
    """
    backend, reference, synthetic, notes = shipment.backend, shipment.reference, shipment.synthetic, shipment.notes
    evaluation = shipment.evaluation
    if evaluation is None:
        evaluation, what = _instead_of_evaluation(shipment.calibration_set, synthetic)
        notes = [f"no evaluation data: parity is proven on {what}, no accuracy was measured", *notes]
    with write_artifact(out, options.overwrite) as folder:
        backend.emit(reference, folder)
        preprocessing = describe_images(shipment, options.decoder)
        if preprocessing is not None:
            backend.describe(folder, preprocessing)
            if options.decoder is not None:
                shutil.copyfile(options.decoder.file, folder / DECODER)
        elif options.decoder is not None:
            notes = [NO_PREDICTOR, *notes]
        evaluation, emulated = proof_part(evaluation, backend.proof_samples(folder))
        notes = [*emulated, *notes]
        parity = prove(shipment, folder, evaluation, options, watcher, preprocessing)
        notes = [*_unprobed(backend, folder, parity), *notes]
        judge_accuracy(parity, shipment.calibrated, shipment.calibration, shipment.evaluation, options.max_drop)
        session = backend.open(folder, backend.levels[0])
        arithmetic, inputs = backend.arithmetic(reference), input_names(reference.graph)
        write_golden(arithmetic, session, evaluation, folder / golden.GOLDEN, inputs)
        backend.finish(folder)
        notes = [*notes, *_frontier(shipment.allocation, folder / FRONTIER)]
        shown = Shown(
            shipment.calibrated, reference, parity, evaluation, session, arithmetic.outputs, preprocessing,
            shipment.allocation, options.decoder, notes, options.command,
        )
        notes = [*notes, *attempted(folder / FACTS, lambda: write_facts(shown, folder))]
        placement = placement_table(shipment.calibrated.quantized.graph, reference.quantized.target)
        manifest, notes = _describe(shipment, folder, parity, placement, notes, preprocessing)
        watcher.end()
        log = shipment.calibrated.log
        write_certificate(folder, _proven_on(backend, folder, reference), backend.derive(folder))
        latency, untimed = latency_of(shipment, folder, evaluation, options)
        notes = [*notes, *untimed]
        write_timings(
            folder, shipment.expected.to_json(), watcher.seconds, log, synthetic.trainings, latency,
            cpu_stages=watcher.cpu_seconds, machine={"processor": processor_name(), "cores": os.cpu_count()},
        )
        build = Build(out, parity, manifest, placement, shipment.calibrated, notes, synthetic.trainings, latency)
        if not parity.passed:
            raise GateFailed(_keep_failed(build, folder), out)
    return build


def latency_of(
    shipment: Shipment, folder: Path, evaluation: Batches, options: Options
) -> tuple[Latency | None, list[str]]:
    """How long an inference takes, where that was asked for and can be said; else why not, if something failed."""
    if not options.latency:
        return None, []
    sample, _ = evaluation.first(1).materialize()
    try:
        return beside_float(shipment.backend, folder, shipment.reference, sample), []
    except CannotCheck as why:
        return None, [f"speed was not measured: {why}"]
    except OSError:
        raise
    except Exception as error:  # the artifact is proven: a float file that a runtime refuses fails no build
        return None, [f"latency is not measured: {first_line(error)}"]


def _describe(
    shipment: Shipment, folder: Path, parity: ParityReport, placement: list[PlacementRow], notes: list[str],
    preprocessing: PreprocessingEntry | None,
) -> tuple[Manifest, list[str]]:
    """Write what people and programs read about the artifact; the manifest, which lists every file, comes last.

    Returns:
        the manifest, and the notes with those of this step.
    """
    synthetic, allocation = shipment.synthetic, shipment.allocation
    (folder / "parity.json").write_text(json.dumps(parity.to_json(), indent=1) + "\n", encoding="utf-8")
    if synthetic.images is not None:
        save_grid(synthetic.images, folder / PICTURES)
    manifest = _manifest(shipment, folder).model_copy(update={"preprocessing": preprocessing})
    listed = manifest.model_copy(update={"files": file_table(folder)})
    notes = [*notes, *attempted(folder / PAGE, lambda: write_page(folder, listed))]
    report = render_report(
        listed, parity, placement, shipment.calibrated.log, notes, synthetic.trainings, allocation
    )
    (folder / "report.md").write_text(report, encoding="utf-8")
    manifest = manifest.model_copy(update={"files": file_table(folder)})
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest, notes


def _proven_on(backend: Backend, folder: Path, reference: Reference) -> str:
    """The processor that ran the artifact, for people."""
    emulated = backend.proof_samples(folder) is not None
    return processor_name() + (f", emulating {reference.quantized.target.profile}" if emulated else "")


def _unprobed(backend: Backend, folder: Path, parity: ParityReport) -> list[str]:
    """A note where the device cannot run layers by themselves, though its target can."""
    if not backend.probes or (folder / PROBE).is_file():
        return []
    reason = (parity.directed.reason if parity.directed is not None else "") or (
        f"it would be larger than {LIMIT:,} bytes, or only float operators compute what it compares")
    return [f"no {PROBE}: `run.py --probe` cannot run layers by themselves on the device: {reason}"]


def _frontier(allocation: Allocation | None, path: Path) -> list[str]:
    """Draw it where there is one; notes say where that cannot be."""

    def draw() -> None:
        if allocation is not None and (found := frontier_facts(allocation)) is not None:
            path.write_text(frontier_svg(found), encoding="utf-8")

    return attempted(path, draw)


def describe_images(shipment: Shipment, decoder: Decoder | None = None) -> PreprocessingEntry | None:
    """How a picture becomes the input, from the first set of image files; None where no such set was given."""
    sets = [found for found in (shipment.calibration_set, shipment.evaluation) if found is not None]
    images = next((found for found in sets if found.preparation is not None), None)
    if images is None or images.preparation is None:
        return None
    named = next((found for found in sets if found.all_classes), images)
    width = shipment.reference.quantized.captured.num_classes
    classes = named.classes if named.all_classes or len(named.classes or ()) == width else None
    return PreprocessingEntry(
        input=input_names(shipment.reference.graph)[0], classes=None if classes is None else list(classes),
        decoder=None if decoder is None else decoder.name, **record_of(images.preparation),
    )


def judge_accuracy(
    parity: ParityReport, calibrated: Calibrated, images: Inputs, evaluation: Batches | None, max_drop: float | None
) -> None:
    """Write the verdict on accuracy into the report, and what the samples look like.

    Args:
        images: that calibration saw, [N, C, H, W]; N may be 0.
        evaluation: None where the calibration set took its place.
    """
    samples = None
    if evaluation is not None:
        samples, _ = evaluation.select(spread(len(evaluation), LOOKED_AT)).materialize()
    if parity.answers is None:
        raise ValueError("the report has no answers to judge: `prove` adds them")
    parity.seen = look(calibrated.graph, images, samples)
    parity.judged = judge(parity.answers, parity.seen, max_drop)


def _instead_of_evaluation(calibration: Batches, synthetic: Synthetic) -> tuple[Batches, str]:
    """What parity is proven on without evaluation data, and its name; raises InputError where nothing is there."""
    if len(calibration):
        return calibration.without_labels(), "the calibration images"
    if synthetic.images is None:
        raise InputError(
            "there are no images to prove parity on: the recipe has none and its method made none",
            field="evaluation", hint="Give images to prove it on.",
        )
    batch = calibration.batch_size
    return array_batches(synthetic.images, None, batch, "eval", "synthetic images"), "the images that the method made"


def write_golden(
    arithmetic: Arithmetic, session: Runner, evaluation: Batches, path: Path, inputs: Sequence[str] = (golden.INPUT,)
) -> None:
    """Write inputs and the integers that any device must give for them: what `run.py` replays.

    Codes right after float operators, and outputs of those, are the session's own, with how far another library's may
    lie from them; what follows from them is computed here.

    Args:
        inputs: names of the network's.
    """
    x, _ = next(iter(evaluation))
    x = part(x, slice(GOLDEN_SAMPLES))
    got = session.run(x) if arithmetic.float_boundaries or arithmetic.float_outputs else {}
    followed = arithmetic.follow(x, got)
    arrays = {golden.input_key(name): tensor.numpy() for name, tensor in zip(inputs, tensors(x), strict=True)}
    given = {**followed.results, **{name: got[name] for name in arithmetic.float_outputs}}
    arrays.update({golden.output_key(name): given[name] for name in arithmetic.outputs})
    for name, codes in followed.results.items():
        if name in arithmetic.outputs:
            continue
        if name in followed.bounds:
            low, high = followed.bounds[name]
            if name not in arithmetic.jumping:
                low, high = within_a_step(codes, low, high)
            arrays.update(golden.near_codes(name, got[name], low, high))
        else:
            arrays[golden.CODE + name] = codes
    for name in arithmetic.float_outputs:
        arrays[golden.float_key(name)] = np.asarray(FLOAT_ROUNDING, np.float32)
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType] - no array is called `allow_pickle`


def _manifest(shipment: Shipment, folder: Path) -> Manifest:
    loaded, backend, reference = shipment.loaded, shipment.backend, shipment.reference
    calibration, allocation = shipment.calibration_set, shipment.allocation
    recipe, target = reference.quantized.recipe, reference.quantized.target
    tensors = tensor_table(reference.graph, target)
    return Manifest(
        version=__version__,
        recipe=RecipeEntry(name=recipe.name, policy=recipe.policy, text=recipe.to_yaml(), sha256=recipe.sha256),
        model=ModelEntry(
            name=loaded.name, sha256=loaded.sha256, arch=None if loaded.arch is None else PurePath(loaded.arch).name
        ),
        calibration=CalibrationEntry(
            kind=recipe.images.source, sha256=calibration.sha256, count=len(calibration), synthetic=shipment.source_made
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
        cut=None if (cut := reference.quantized.cut) is None else CutEntry.model_validate(cut.to_json()),
    )


def _keep_failed(build: Build, folder: Path) -> Build:
    """Put the failed artifact beside its place, for inspection."""
    kept = failed_place(build.folder)
    with write_artifact(kept, overwrite=True) as copy_folder:
        shutil.copytree(folder, copy_folder, dirs_exist_ok=True)
    return replace(build, folder=kept)
