"""Which layers and tensors of a network suffer at few bits, measured one by one in the float network.

    quantized  = plan(model, recipe, ...)         what `isobit build` would place
    at bits    = quantize(captured, ...)          once for each number of bits, every layer open
    calibrated = calibrate(at bits, samples)      a range search; nothing is learned
    effects    = measure_effects(calibrated)      layer by layer and tensor by tensor, everything else in float

`isobit.search` takes it from there where a drop is stated. Nothing is written. The command: `isobit analyze MODEL`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.build import (
    calibration_samples,
    check_request,
    check_samples,
    input_size,
    origin_notes,
    plan,
    target_notes,
)
from isobit.calib.calibrate import calibrate
from isobit.calib.corrected import Corrected
from isobit.calib.cost import Cost, facts_of, network_cost
from isobit.calib.estimate import Estimate, timed
from isobit.calib.machine import measure_machine
from isobit.calib.methods import find_method
from isobit.calib.mixed_precision.sensitivity import (
    Effects,
    LayerEffect,
    TensorEffect,
    effects_cost,
    measure_effects,
    quantized_layers,
)
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.errors import CalibrationError, InputError, RecipeError, TargetError
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.model.modelfile import LoadedModel, as_loaded
from isobit.pipeline.proof.measures import Measures, check_drop
from isobit.pipeline.proof.observed import spread
from isobit.pipeline.quant.grids import grid_kind
from isobit.pipeline.recipe.budget import MAX_BITS, MIN_BITS, BitBudget
from isobit.pipeline.recipe.schema import FinishRule, MethodChoice, Recipe, RuleChange, changed, weight_change
from isobit.pipeline.samples.arrays import Targets, targets_at
from isobit.pipeline.samples.batching import plan_memory
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.inputs import InputShape, in_model_order
from isobit.pipeline.samples.network_inputs import Inputs, part, sample_count
from isobit.pipeline.stages import Quantized
from isobit.pipeline.watcher import Quiet, Watcher
from isobit.result import Options

BITS: tuple[int, ...] = BitBudget.model_fields["options"].default
SAMPLES = 64  # that sensitivities are means over, spread evenly over the calibration samples
RANGES = "nearest"  # the method that only searches ranges


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Args:
        name: as overrides name it.
        node: of the graph.
        op: of the call.
        weights: how many it has.
        macs: multiply-accumulates for one sample.
        effects: by bits.
    """

    name: str
    node: str
    op: str
    weights: int
    macs: float
    effects: Mapping[int, LayerEffect]


@dataclass(frozen=True)
class TensorRow:
    """One activation: its `name` in tables and artifacts, the `layer` that gives it, and effects by bits."""

    name: str
    layer: str
    effects: Mapping[int, TensorEffect]


@dataclass(frozen=True)
class Analysis:
    """What `analyze_model` finds.

    Args:
        quantized: what a build of the recipe would start from.
        samples: how many samples the effects are means over.
        bits: at which they were measured.
        layers, tensors: in execution order.
        notes: what a user should know.
    """

    quantized: Quantized
    samples: int
    bits: tuple[int, ...]
    layers: tuple[LayerRow, ...]
    tensors: tuple[TensorRow, ...]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def shown_bits(self) -> tuple[int, int]:
        """(of weights, of activations) of the recipe, or the nearest that were measured: what rows are ranked at."""
        recipe = self.quantized.recipe
        wanted = recipe.weights.bits if isinstance(recipe.weights.bits, int) else MIN_BITS
        return self._nearest(wanted), self._nearest(recipe.activations.bits)

    def _nearest(self, wanted: int) -> int:
        return min(self.bits, key=lambda bits: (abs(bits - wanted), bits))

    def worst_layers(self, bits: int | None = None) -> list[LayerRow]:
        """Those that change the answers most come first: weight at `bits`, input at the recipe's activation bits.

        Args:
            bits: by default the recipe's.
        """
        at = self.shown_bits[0] if bits is None else bits
        return sorted((row for row in self.layers if at in row.effects), key=lambda row: -row.effects[at].loss)

    def worst_tensors(self, bits: int | None = None) -> list[TensorRow]:
        """Activations, in the same way."""
        at = self.shown_bits[1] if bits is None else bits
        return sorted((row for row in self.tensors if at in row.effects), key=lambda row: -row.effects[at].loss)


def analyze_model(
    loaded: LoadedModel | nn.Module, recipe: Recipe, target: str, calibration: Batches | InputShape,
    evaluation: Batches | None = None, options: Options | None = None, *, bits: Sequence[int] = BITS,
    samples: int = SAMPLES, watcher: Watcher | None = None,
) -> Analysis:
    """Measure what each layer and each activation does to the network at few bits.

    Args:
        loaded, recipe, target, calibration, evaluation, options: as of `isobit.build.compile_model`; the recipe says
            which grids are meant (granularity, range search, overrides), its policy does not hold, and its method is
            not run.
        bits: of weights and of activations, each 2 to 8; the recipe's activation bits are measured as well. A layer's
            weight at each of them goes together with an input at the recipe's activation bits.
        samples: how many of the calibration samples are used.

    Raises:
        CompileError: see `pipeline.errors`.
    """
    options, watcher = options or Options(), TimedStages(watcher or Quiet())
    subject = open_subject(loaded, recipe, target, calibration, evaluation, options, watcher)
    return measured(subject, check_bits(bits), samples, watcher)


@dataclass(frozen=True)
class Subject:
    """A model that was placed, with its samples: what sensitivities and a search start from.

    Args:
        quantized: as the recipe says.
        images, targets, labels: the calibration samples, and what is known of them.
        evaluation: None where none was given.
    """

    loaded: LoadedModel
    quantized: Quantized
    images: Inputs
    targets: Targets | None
    labels: Tensor | None
    evaluation: Batches | None
    measures: Measures
    options: Options
    notes: tuple[str, ...]


def open_subject(
    loaded: LoadedModel | nn.Module, recipe: Recipe, target: str, calibration: Batches | InputShape,
    evaluation: Batches | None, options: Options, watcher: TimedStages,
) -> Subject:
    """Place the model and take its samples, all that can be refused first.

    Raises:
        CompileError: see `pipeline.errors`.
    """
    loaded = as_loaded(loaded)
    check_drop(options.max_drop)
    ungated = replace(options, max_drop=None)
    measures = check_request(recipe, calibration, evaluation, ungated)
    _check_recipe(recipe)
    calibration = in_model_order(loaded, calibration) if isinstance(calibration, Batches) else calibration
    evaluation = in_model_order(loaded, evaluation) if evaluation is not None else None
    origin = origin_notes(loaded, calibration, watcher)
    watcher.stage("capture and place")
    backend = BACKENDS.get(target)
    quantized = plan(loaded, recipe, backend, calibration.example, options.profile, options.outputs,
                     options.allow_float, options.cut)
    measures = measures.of_input(input_size(quantized, calibration, evaluation))
    check_samples(quantized, calibration, evaluation, None, measures)
    if not quantized_layers(quantized.calls):
        raise RecipeError("no layer of the network is quantized", where=f"recipe '{recipe.name}'", field="recipe",
                          hint="Take a recipe that leaves fewer of them in float.")
    drawn = calibration_samples(quantized, calibration, options, watcher)
    if not sample_count(drawn.images):
        raise CalibrationError(
            "sensitivities are measured on samples, and there are none", field="calibration",
            hint="Give samples, or take a recipe that draws them: `recipe.images.source=files`.",
        )
    targets = calibration.targets if isinstance(calibration, Batches) else drawn.labels
    notes = (*loaded.notes, *origin, *target_notes(quantized))
    return Subject(loaded, quantized, drawn.images, targets, drawn.labels, evaluation, measures, options, notes)


def measured(subject: Subject, bits: Sequence[int], samples: int, watcher: TimedStages) -> Analysis:
    """The effects at each of `bits` that the target can hold.

    Raises:
        CompileError: see `pipeline.errors`; the target holds none of them.
    """
    options = subject.options
    chosen = spread(sample_count(subject.images), check_count(samples))
    images = part(subject.images, chosen)
    inputs = subject.quantized.recipe.activations.bits
    at_bits = place_at(subject.quantized, sorted({*bits, inputs}))
    watcher.stage("measure sensitivities")
    expected = expected_time(at_bits, len(chosen))
    watcher.expected(f"{len(chosen)} samples at {', '.join(map(str, at_bits))} bits; {expected.text}")
    watcher.expected(plan_memory(subject.quantized.graph, options.memory).text)
    searched = {width: calibrate(quantized, images, device=options.device, memory=options.memory)
                for width, quantized in at_bits.items()}
    found = {
        width: measure_effects(
            calibrated, images, targets_at(subject.targets, chosen), subject.measures, device=options.device,
            memory=options.memory, progress=_part(watcher, number, len(searched)),
            beside=searched.get(inputs, calibrated),
        )
        for number, (width, calibrated) in enumerate(searched.items())
    }
    watcher.end()
    return Analysis(subject.quantized, len(chosen), tuple(at_bits), _layer_rows(subject.quantized, found),
                    _tensor_rows(subject.quantized, found), subject.notes)


def place_at(quantized: Quantized, bits: Sequence[int]) -> dict[int, Quantized]:
    """The network with every open layer and activation at each of `bits`, ranges searched and nothing learned.

    Raises:
        TargetError: the target holds none of them.
    """
    found: dict[int, Quantized] = {}
    refused: TargetError | None = None
    for width in sorted(bits):
        try:
            found[width] = passes.quantize(quantized.captured, open_recipe(quantized.recipe, width), quantized.target)
        except TargetError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def open_recipe(recipe: Recipe, bits: int) -> Recipe:
    """`recipe` with all weights and activations at `bits` that no override fixes, and only a range search as method."""
    return recipe.model_copy(update={
        "policy": "none", "method": range_search(recipe), "finish": FinishRule(),
        "weights": changed(recipe.weights, weight_change(bits)),
        "activations": changed(recipe.activations, RuleChange(bits=bits)),
    })


def range_search(recipe: Recipe, **more: bool) -> MethodChoice:
    """A range search in the place of the recipe's method, with channels equalized before it as the recipe says.

    It decides what depthwise layers need. `more` are further parameters of the method.
    """
    _, parameters = find_method(recipe.method)
    own = parameters.model_dump() if isinstance(parameters, Corrected) else {}
    equalized = {key: True for key in ("equalize", "equalize_clips") if own.get(key)}
    return MethodChoice(name=RANGES, parameters={**equalized, **more})


def expected_time(at_bits: Mapping[int, Quantized], samples: int) -> Estimate:
    """How long the measurement will take."""
    costs = (effects_cost(quantized, facts_of(quantized, samples)) for quantized in at_bits.values())
    total = sum(costs, Cost())
    return timed(total, machine=measure_machine())


def check_bits(bits: Sequence[int]) -> tuple[int, ...]:
    """Distinct bits in rising order; raises InputError where there are none, or one that no recipe has."""
    wrong = [width for width in bits if not MIN_BITS <= width <= MAX_BITS]
    if wrong or not bits:
        raise InputError(f"there is nothing to measure at the bits {wrong}", field="bits",
                         allowed=f"numbers from {MIN_BITS} to {MAX_BITS}")
    return tuple(sorted(set(bits)))


def check_count(samples: int) -> int:
    """`samples`; raises InputError where it is below 1."""
    if samples < 1:
        raise InputError(f"sensitivities are means over samples, and {samples} are none", field="samples",
                         allowed="1 or more")
    return samples


def _check_recipe(recipe: Recipe) -> None:
    for name, rule in (("weights", recipe.weights), ("activations", recipe.activations)):
        if grid_kind(rule.levels).own_bits:
            raise RecipeError(
                f"{name}.levels: {rule.levels} gives every channel bits of its own: a layer has none to choose",
                where=f"recipe '{recipe.name}'", field=f"recipe.{name}.levels", allowed="uniform levels",
            )


def _part(watcher: Watcher, number: int, parts: int) -> Callable[[int, int], None]:
    return lambda done, total: watcher.allocating(number * total + done, parts * total)


def _layer_rows(quantized: Quantized, found: Mapping[int, Effects]) -> tuple[LayerRow, ...]:
    layers, rows = Layers(quantized.calls), []
    for layer in quantized_layers(quantized.calls):
        effects = {bits: of.layers[layer.name] for bits, of in found.items() if layer.name in of.layers}
        weights = math.prod(size for size in layer.args["weight"].shape if size is not None)
        macs = network_cost([layer]).macs
        rows.append(LayerRow(layers.name(layer), layer.name, layer.op, weights, macs, effects))
    return tuple(rows)


def _tensor_rows(quantized: Quantized, found: Mapping[int, Effects]) -> tuple[TensorRow, ...]:
    layers, rows = Layers(quantized.calls), []
    for tensor in quantized_tensors(quantized.graph).activations().distinct():
        effects = {bits: of.tensors[tensor.name] for bits, of in found.items() if tensor.name in of.tensors}
        rows.append(TensorRow(tensor.name, layers.name(quantized.calls[tensor.source]), effects))
    return tuple(rows)
