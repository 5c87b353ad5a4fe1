"""The story: a trained model goes in, an integer artifact that is proven to compute what was calibrated comes out.

    captured   = capture(model)                 pipeline   float graph, batch norm intact: the teacher
    quantized  = quantize(captured, ...)        passes     quantizers in place; topology is final
    allocation = allocate(quantized, images)    calib      a recipe with a budget of bits: then quantized once more
    calibrated = calibrate(quantized, images)   calib      numbers; the only step that wants images
    reference  = legalize(calibrated)           passes     codes frozen, immutable: the truth
    files      = backend.emit(reference)        backends   the artifact
    report     = compare(...)                   pipeline   every quantized tensor, code by code

The last two are `isobit.shipping`. On the command line: `isobit MODEL --recipe qdrop_w4a4`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from isobit import backends, passes
from isobit.backends.base import BACKENDS, Backend
from isobit.backends.placement import placement_table
from isobit.calib.calibrate import calibrate
from isobit.calib.estimate import Estimate, estimate
from isobit.calib.machine import measure_machine
from isobit.calib.methods import check_batch, check_needs, find_method
from isobit.calib.mixed_precision.allocation import Choice, allocate, find_choices, weight_specs
from isobit.calib.sources import Maker, SyntheticImages, check_source, find_source, make, makes_images
from isobit.pipeline.artifact.output import claim
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.capture.lookups import check_lookups
from isobit.pipeline.errors import InputError, RecipeError
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.model.modelfile import LoadedModel, as_loaded
from isobit.pipeline.model.onnx.proof import COMPARED
from isobit.pipeline.proof.measures import Measures, find_measures, rehearse_gate
from isobit.pipeline.proof.observed import seen_twice
from isobit.pipeline.proof.outputs import KINDS, output_kind
from isobit.pipeline.recipe.allocation import Allocation, budget_text
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.registry import discover
from isobit.pipeline.samples.batching import plan_memory
from isobit.pipeline.samples.data import Batches, array_batches, check_against_model
from isobit.pipeline.samples.inputs import InputShape, in_model_order
from isobit.pipeline.samples.network_inputs import Inputs, tensors
from isobit.pipeline.stages import Calibrated, Quantized
from isobit.pipeline.watcher import Quiet, Watcher
from isobit.place import place
from isobit.result import Build, GateFailed, Options
from isobit.shipping.ship import ship
from isobit.shipping.shipment import Shipment, Synthetic

__all__ = ["Build", "GateFailed", "Options", "bit_choices", "budget_notes", "build_artifact", "check_recipe",
           "compile_model", "plan", "target_notes"]

discover(backends)


def compile_model(
    loaded: LoadedModel | nn.Module,
    recipe: Recipe,
    target: str,
    calibration: Batches | InputShape,
    evaluation: Batches | None,
    out: str | Path,
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
    options, out = options or Options(), Path(out)
    with options.ranks.led(claim(out, options.overwrite, options.checkpoints)):
        return build_artifact(loaded, recipe, target, calibration, evaluation, out, options, watcher or Quiet())


def build_artifact(
    loaded: LoadedModel | nn.Module, recipe: Recipe, target: str, calibration: Batches | InputShape,
    evaluation: Batches | None, out: Path, options: Options, told: Watcher,
) -> Build:
    """`compile_model`, for a caller that holds `out` already (`pipeline.artifact.output.claim`)."""
    watcher, backend = TimedStages(told), BACKENDS.get(target)
    loaded = as_loaded(loaded)
    measures = check_request(recipe, calibration, evaluation, options)
    calibration = in_model_order(loaded, calibration) if isinstance(calibration, Batches) else calibration
    evaluation = in_model_order(loaded, evaluation) if evaluation is not None else None
    origin = origin_notes(loaded, calibration, watcher)
    remarks = data_notes(calibration, evaluation, measures, watcher)
    watcher.stage("capture and place")
    quantized = plan(
        loaded, recipe, backend, calibration.example, options.profile, options.outputs, options.allow_float,
        options.cut,
    )
    choices = bit_choices(quantized)
    measures = measures.of_input(input_size(quantized, calibration, evaluation))
    check_samples(quantized, calibration, evaluation, options.max_drop, measures)
    watcher.planned(quantized, placement_table(quantized.graph, quantized.target))
    expected = expect(quantized, calibration, evaluation, options, watcher)
    samples = calibration_samples(quantized, calibration, options, watcher)
    quantized, allocation = decide_bits(quantized, choices, samples.images, options, watcher)
    watcher.stage("calibrate")
    calibrated = calibrate(
        quantized, samples.images, device=options.device, progress=watcher, checkpoints=options.checkpoints,
        resume=options.resume, data_sha256=samples.batches.sha256, labels=samples.labels, memory=options.memory,
        ranks=options.ranks,
    )
    options.ranks.go_on_alone()
    watcher.stage("freeze, emit and prove")
    reference, projected = passes.legalize(calibrated)
    synthetic = Synthetic.of(samples.made, calibrated)
    notes = [
        *loaded.notes, *origin, *remarks, *target_notes(quantized), *synthetic.notes, *method_notes(calibrated),
        *projected,
    ]
    shipment = Shipment(
        loaded, backend, calibrated, reference, samples.images, samples.batches, evaluation, synthetic,
        samples.made is not None, allocation, expected, notes, measures,
    )
    return ship(shipment, out, options, watcher)


def check_request(
    recipe: Recipe, calibration: Batches | InputShape, evaluation: Batches | None, options: Options
) -> Measures:
    """Refuse arguments that do not go together; return what will be measured.

    Raises:
        RecipeError: images are given to a source that makes its own.
        InputError: calibration is no set of samples; a metric or an accuracy gate has nothing to compare with.
    """
    if not isinstance(calibration, Batches | InputShape):
        raise InputError(
            f"calibration is a {type(calibration).__name__}", field="calibration",
            allowed="what open_data() gives, or an InputShape for a source that makes its images",
        )
    if isinstance(calibration, Batches) and makes_images(recipe.images):
        raise RecipeError(
            f"the source '{recipe.images.source}' makes its images and reads none", where="images.source",
            field="recipe.images.source",
            hint="Give the shape of the model's input in their place (InputShape), or a recipe that draws images.",
        )
    measures = find_measures(options.metrics, options.decoder)  # what is wrong with them is told before calibration
    measures.check(None if evaluation is None else evaluation.targets, options.max_drop, evaluation is not None)
    return measures


def origin_notes(loaded: LoadedModel, calibration: Batches | InputShape, watcher: Watcher) -> list[str]:
    """How near the network is to the .onnx file that it was read from; nothing for other models.

    Raises:
        InputError: not near enough, on the first calibration samples, or on made-up ones where there are none.
    """
    if loaded.origin is None:
        return []
    watcher.stage("compare with ONNX Runtime")
    if isinstance(calibration, Batches):
        samples = tensors(calibration.first(COMPARED).materialize()[0])
    else:
        samples = loaded.origin.random_samples()
    network = loaded.network
    note = loaded.origin.check(network if isinstance(network, nn.Module) else network.module(), samples)
    watcher.expected(note)
    return [note]


def data_notes(
    calibration: Batches | InputShape, evaluation: Batches | None, measures: Measures, watcher: Watcher
) -> list[str]:
    """What will not be measured though it could be, and what measures too well; said before calibration as well."""
    notes = [] if evaluation is None else measures.notes(evaluation.targets)
    notes += seen_twice(calibration, evaluation) if isinstance(calibration, Batches) else []
    for note in notes:
        watcher.note(note)
    opened = [batches for batches in (calibration, evaluation) if isinstance(batches, Batches)]
    return [*dict.fromkeys(note for batches in opened for note in batches.notes), *notes]


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
            where="weights.bits", field="recipe.weights.bits",
            hint="Give a number of bits, or `recipe.images.source=distilled`.",
        )
    lacking = sorted(wanted - source.gives) if isinstance(source, Maker) else []
    if lacking:
        raise RecipeError(
            f"the method '{method.name}' needs {' and '.join(lacking)}, and the source '{source.name}' gives none",
            where="images.source", field="recipe.images.source",
        )


def plan(
    loaded: LoadedModel, recipe: Recipe, backend: Backend, example: Inputs, profile: str | None = None,
    outputs: Collection[str] = (), allow_float: bool = False, cut: Collection[str] = (),
) -> Quantized:
    """Capture and place quantizers: everything that can be refused before an image is read.

    Args:
        example: one sample of every input.
        outputs: names of the outputs to keep; none for all.
        allow_float, cut: see `Options`.

    Raises:
        CaptureError, RecipeError, TargetError: what cannot be honoured, where, and what can.
    """
    check_recipe(recipe)
    ports = ((), ()) if loaded.origin is None else (loaded.origin.input_names, loaded.origin.outputs)
    captured = capture(loaded.network, example, name=loaded.name, sha256=loaded.sha256, outputs=outputs, ports=ports)
    quantized = place(replace(captured, cut=tuple(cut)), recipe, backend, profile, allow_float)
    check_needs(recipe.method, quantized)
    check_source(quantized)
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


def check_samples(
    quantized: Quantized, calibration: Batches | InputShape, evaluation: Batches | None, max_drop: float | None,
    measures: Measures,
) -> None:
    """Refuse samples and targets that do not fit the model; labels are judged where something reads them.

    Raises:
        InputError: they do not fit, or an accuracy gate has no accuracy to judge.
        CalibrationError: too few images for one step of the method.
    """
    captured = quantized.captured
    kind = output_kind(captured.output_shape)
    method, parameters = find_method(quantized.recipe.method)
    taught = "labels" in method.needed(parameters)
    if isinstance(calibration, Batches):
        check_batch(quantized.recipe, len(calibration))
        classes = captured.num_classes if kind == "classes" or taught else None
        check_against_model(calibration, tuple(captured.input_shapes.values()), classes)
    if evaluation is not None:
        classes = captured.num_classes if kind == "classes" and measures.judge_labels else None
        check_against_model(evaluation, tuple(captured.input_shapes.values()), classes)
    for batches in (calibration, evaluation):
        if isinstance(batches, Batches):
            check_lookups(captured.graph, batches)
    seen = evaluation or (calibration if isinstance(calibration, Batches) else None)
    if seen is not None and len(seen) and measures.rehearsed:
        rehearse_gate(measures, captured.graph, seen, evaluation is not None, max_drop)
    if max_drop is not None and kind != "classes" and measures.held is None:
        raise InputError(
            f"an accuracy gate compares labels with classes, and the model gives {KINDS[kind]}",
            field="options.max_drop",
            hint="Name a metric (`options.metrics`), or leave it out: parity.json has the distance of the outputs.",
        )


def input_size(
    quantized: Quantized, calibration: Batches | InputShape, evaluation: Batches | None
) -> tuple[int, int] | None:
    """(height, width) of the network's input, for a decoder; None where the input is no image."""
    for samples in (evaluation, calibration):
        if isinstance(samples, Batches) and samples.preparation is not None:
            return samples.preparation.height, samples.preparation.width
    shape = quantized.captured.input_shape
    return (shape[-2], shape[-1]) if len(shape) == 3 else None


def expect(
    quantized: Quantized, calibration: Batches | InputShape, evaluation: Batches | None, options: Options,
    watcher: Watcher,
) -> Estimate:
    """Say what the build will cost, time and memory; return the time."""
    images = len(calibration) if isinstance(calibration, Batches) else None
    samples = None if evaluation is None else len(evaluation)
    expected = estimate(quantized, images, machine=measure_machine(), samples=samples)
    watcher.expected(expected.text)
    watcher.expected(plan_memory(quantized.graph, options.memory).text)
    return expected


@dataclass(frozen=True)
class Samples:
    """What calibration sees.

    Args:
        batches: the set, with its origin and hash.
        images, labels: all of it at once, [N, ...] of each input and [N]; N may be 0.
        made: how the recipe's source made them; None where they were given.
    """

    batches: Batches
    images: Inputs
    labels: Tensor | None
    made: SyntheticImages | None = None


def calibration_samples(
    quantized: Quantized, calibration: Batches | InputShape, options: Options, watcher: Watcher
) -> Samples:
    """The given images, or those that the recipe's source makes."""
    if isinstance(calibration, Batches):
        images, _ = calibration.materialize()
        return Samples(calibration, images, calibration.labels)
    made = make_images(quantized, options, watcher)
    size = quantized.recipe.images.batch_size
    return Samples(array_batches(made.images, made.labels, size, "calib", "synthetic images"), made.images, made.labels,
                   made)


def make_images(quantized: Quantized, options: Options, watcher: Watcher) -> SyntheticImages:
    """The images that the recipe's source makes, as a stage of its own where there are any."""
    if quantized.recipe.images.count:
        watcher.stage("make images")
    return options.ranks.first(lambda: make(
        quantized, device=options.device, progress=watcher, checkpoints=options.checkpoints, resume=options.resume
    ))


def decide_bits(
    quantized: Quantized, choices: Sequence[Choice], images: Inputs, options: Options, watcher: Watcher
) -> tuple[Quantized, Allocation | None]:
    """The network placed again with the best bits for every layer; itself and None where all bits are stated."""
    if all(choice.fixed is not None for choice in choices):
        return quantized, None
    watcher.stage("allocate bits")
    allocation = options.ranks.first(lambda: allocate(
        quantized, choices, images, device=options.device, progress=watcher.allocating, memory=options.memory
    ))
    watcher.allocated(allocation)
    recipe = quantized.recipe.with_bits(allocation.bits)
    return passes.quantize(quantized.captured, recipe, quantized.target), allocation


def target_notes(quantized: Quantized) -> list[str]:
    """What a user of this target should know about this recipe on this graph."""
    target, recipe = quantized.target, quantized.recipe
    notes = target.notes_for(str(recipe.weights.bits), recipe.activations.bits)
    if (cut := quantized.cut) is not None:
        notes.insert(0, cut.text)
    weights = quantized_tensors(quantized.graph).weights()
    if any(tensor.quantizer.spec.grid.limit is not None for tensor in weights):
        notes.append(f"weight codes keep to +-{target.weights.wide_limit}: {target.weights.wide_limit_reason}")
    return notes


def budget_notes(quantized: Quantized, choices: Sequence[Choice]) -> list[str]:
    """What a dry run cannot say, because images decide it."""
    free = sum(choice.fixed is None for choice in choices)
    if not free:
        return []
    budget = budget_text(quantized.recipe.weights.budget)
    return [f"the weight bits of {free} layers are decided from the images ({budget}); the table shows the widest"]


def method_notes(calibrated: Calibrated) -> list[str]:
    """What a user should know about how calibration went."""
    kept = [unit.title for unit in calibrated.log if unit.kept_nearest]
    if not kept:
        return []
    names = ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else "")
    return [
        f"{len(kept)} of {len(calibrated.log)} units kept nearest rounding, because learning made them no better "
        f"({names}): below 8 bits, more method.steps may help"
    ]
