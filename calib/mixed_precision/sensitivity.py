"""How much each layer and each tensor suffers at some bits, alone in a float network: noise, answers, the task.

Of a layer the noise is that in its own result: with quantized weights, with a quantized input, with both. Of an
activation it is that in the tensor. What a layer or tensor does to the network's answers is
`predictions.answers_loss` with everything else in float, and `proof.drop` where there is something to count.

The numbers are those of a range search, rounded to nearest: a method that learns makes less of either, and mostly keeps
the order of the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isobit.calib.cost import Cost, CostFacts, network_cost
from isobit.calib.mixed_precision.visits import Visit, visits
from isobit.calib.reconstruction.boundary import batches
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.ports import output_names
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.graph.subgraphs import channels_last
from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.drop import STAGES, Drop, measured_drop
from isobit.pipeline.proof.measures import Measures
from isobit.pipeline.proof.metrics.signal_to_noise import Noise
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer
from isobit.pipeline.samples.arrays import Targets
from isobit.pipeline.samples.batching import BUDGET, evaluation_batch
from isobit.pipeline.samples.network_inputs import Inputs, in_numpy, sample_count
from isobit.pipeline.stages import Calibrated, Quantized

LAYER_PASSES = 2.0  # through what lies after a layer: its weight quantized, and its input as well
@dataclass(frozen=True)
class LayerEffect:
    """What quantizing one layer does, everything else in float.

    Args:
        weight_bits: of its weight.
        input_bits: of its input where weight and input are quantized together; None where no grid enters it.
        snr_weights, snr_activations, snr: decibel in the layer's result, with quantized weights, with the input at as
            many bits, with both; None where there is no noise, or where nothing is quantized.
        loss_weights, loss: `answers_loss` with quantized weights, with both.
        drop: of the task, with both; None where nothing counts it.
    """

    weight_bits: int
    input_bits: int | None
    snr_weights: float | None
    snr_activations: float | None
    snr: float | None
    loss_weights: float
    loss: float
    drop: Drop | None


@dataclass(frozen=True)
class TensorEffect:
    """What quantizing one activation does, wherever it is read; `snr` in the tensor, `loss` as of a layer."""

    bits: int
    snr: float | None
    loss: float


@dataclass(frozen=True)
class Effects:
    """Everything measured at some bits.

    Args:
        layers: by the node of the layer, in execution order.
        tensors: by the node of the quantizer, in execution order.
    """

    layers: Mapping[str, LayerEffect]
    tensors: Mapping[str, TensorEffect]


def quantized_layers(calls: Calls) -> list[Call]:
    """The layers whose weights are quantized, in execution order."""
    return [layer for layer in Layers(calls) if layer.args["weight"].quantizer is not None]


def measure_effects(
    calibrated: Calibrated, images: Inputs, targets: Targets | None, measures: Measures, *, beside: Calibrated,
    device: str | torch.device = "cpu", memory: float = BUDGET,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Effects:
    """Every layer and every activation at the bits that `calibrated` has.

    Args:
        images: [N, ...] of every input.
        targets: of the images; None where they are not known.
        measures: what of the answers is counted beside.
        beside: the same network at the bits that a layer's input has where it is quantized together with the weight.
        memory: bytes that a batch keeps to.
        progress: is told how many of how many pieces of work are done.
    """
    device = torch.device(device)
    graph = channels_last(copy.deepcopy(calibrated.graph).to(device))
    for module in graph.modules():
        if isinstance(module, Quantizer | BiasQuantizer):
            module.phase = Phase.OFF
    tensors = {tensor.name: tensor.quantizer for tensor in quantized_tensors(graph).activations().distinct()}
    inputs = quantized_tensors(copy.deepcopy(beside.graph).to(device)).activations().by_name()
    calls, grids = Calls(graph), GridMap(calibrated.quantized.target)
    layers = set(quantized_layers(calls))
    subjects: list[_Layer | _Tensor] = []
    for call in calls:
        if call.name in tensors:
            subjects.append(_Tensor(call.name, tensors[call.name]))
        elif call in layers:
            subjects.append(_Layer(calls, call, grids, inputs, measures))
    parts = list(batches(sample_count(images), evaluation_batch(graph, memory)))
    seen = 0
    for visit in visits(graph, [subject.name for subject in subjects], images, device, memory):
        with torch.no_grad():
            subjects[visit.place].see(visit, None if targets is None else targets[visit.rows])
        progress(seen := seen + 1, len(parts) * len(subjects))
    return Effects({one.name: one.effect for one in subjects if isinstance(one, _Layer)},
                   {one.name: one.effect for one in subjects if isinstance(one, _Tensor)})


@contextmanager
def _on(quantizer: Quantizer) -> Iterator[None]:
    quantizer.phase = Phase.ON
    try:
        yield
    finally:
        quantizer.phase = Phase.OFF


def _noise(noise: Noise, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, value in given.items():
        noise.add(in_numpy(value), in_numpy(wanted[name]))


@dataclass
class _Tensor:
    """An activation that is quantized for a while."""

    name: str
    quantizer: Quantizer
    noise: Noise = field(default_factory=Noise)
    loss: float = 0.0

    def see(self, visit: Visit, targets: Targets | None) -> None:
        """Count one batch."""
        wanted = visit.run()
        with _on(self.quantizer):
            given = visit.run()
            changed = visit.answers(given)
        _noise(self.noise, given, wanted)
        self.loss += visit.loss(changed)

    @property
    def effect(self) -> TensorEffect:
        """What all batches that were seen come to."""
        return TensorEffect(self.quantizer.spec.grid.bits, self.noise.ratio, self.loss)


class _Layer:
    """A layer whose weight, input or both are quantized for a while."""

    def __init__(
        self, calls: Calls, layer: Call, grids: GridMap, inputs: Mapping[str, Quantizer], measures: Measures
    ) -> None:
        weight, source = layer.args["weight"].quantizer, layer.args["input"]
        if weight is None:
            raise ValueError(f"the weight of {layer.where} is on no grid")
        grid = None if source.constant else grids.quantizer_call(source)
        self.name, self._weight, self._source = layer.name, weight, source.name
        self._input = None if grid is None else grid.quantizer
        self._beside = None if grid is None else inputs[grid.name]
        self._noises = {kind: Noise() for kind in ("weights", "activations", "both")}
        self._losses = {"weights": 0.0, "both": 0.0}
        self._answers = Answers(STAGES, measures)
        self._ports = dict(zip(output_names(calls.graph), (output.name for output in calls.outputs), strict=True))

    def see(self, visit: Visit, targets: Targets | None) -> None:
        """Count one batch."""
        wanted, given = visit.run(), {}
        together: dict[str, Tensor] = {}
        if self._input is not None and self._beside is not None:
            value = visit.values[self._source]
            given["activations"] = visit.run({self._source: self._input.fake_quantize(value)})
            together = {self._source: self._beside.fake_quantize(value)}
        with _on(self._weight):
            given["weights"], given["both"] = visit.run(), visit.run(together)
        for kind, values in given.items():
            _noise(self._noises[kind], values, wanted)
        changed = {kind: visit.answers(given[kind]) for kind in self._losses}
        for kind, answers in changed.items():
            self._losses[kind] += visit.loss(answers)
        after = {**visit.answered, **changed["both"]}
        self._answers.add({stage: {port: in_numpy(values[name]) for port, name in self._ports.items()}
                           for stage, values in zip(STAGES, (visit.answered, after), strict=True)}, targets)

    @property
    def effect(self) -> LayerEffect:
        """What all batches that were seen come to."""
        return LayerEffect(
            self._weight.spec.grid.bits, None if self._beside is None else self._beside.spec.grid.bits,
            self._noises["weights"].ratio, self._noises["activations"].ratio, self._noises["both"].ratio,
            self._losses["weights"], self._losses["both"], measured_drop(self._answers),
        )


def effects_cost(quantized: Quantized, facts: CostFacts) -> Cost:
    """Cost of `measure_effects` on `facts.images`, with the range search before it."""
    layers = set(Layers(quantized.calls))
    tensors = {tensor.name for tensor in quantized_tensors(quantized.graph).activations().distinct()}
    after, passes = Cost(), facts.network
    for call in reversed(quantized.calls):
        if call in layers:
            after += network_cost([call])
            passes += after * LAYER_PASSES
        elif call.name in tensors:
            passes += after
    return facts.searched() + passes * facts.images
