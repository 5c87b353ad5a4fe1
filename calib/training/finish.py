"""The network-wise finish: scales, biases and, where asked for, the rounding of weights learn the float prediction.

Reconstruction answers for one unit at a time; what errors add up to over all of them nobody has looked at. Here the
whole quantized network is trained on the calibration samples, by the float network's outputs:

    scale of an activation   s_a = s0_a * m_a
    scale of a weight        s_w = s0_w * m_w, one m_w for each channel that has a scale
    code of a weight         k   = clamp(round(w / s0_w + v)),   v in [-0.5, 0.5]: the codes next to it, as in SignRound
    bias                     b   = b0 + u o,   u the layer's root mean square result, one o for each channel

All m start at 1 and all o at 0; v starts where it gives the decided code, and codes stay where its rate is 0. Adam, its
rate to 0 by cosine; rounding (LSQ, arXiv 1902.08153; SignRound, arXiv 2309.05516) passes the gradient. The loss is the
distance of predictions (`calib.reconstruction.predictions`), of a classifier at temperature 4. That reconstruction ends
with the whole network against its own prediction is what NWQ (NeurIPS 2022) and AE-QDrop (2024) report.

An eighth of the samples, four at least, is kept out of training: what does not lower the loss on them is not taken.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from isobit.calib.context import Calibration
from isobit.calib.corrections.equalize import reads_alone, stated
from isobit.calib.reconstruction.boundary import batches
from isobit.calib.reconstruction.mixing import MaskSource, Mixing
from isobit.calib.reconstruction.predictions import FloatPredictions
from isobit.calib.roundings.signed_offsets import FARTHEST
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    bound_args,
    get_attribute,
    nodes_by_name,
    op_name,
    quantizer_of,
    source_of,
)
from isobit.pipeline.quant.grid import QParams, along
from isobit.pipeline.quant.quantizer import Quantizer, bias_scale, on_steps, stand_in_for
from isobit.pipeline.samples.network_inputs import on_device, part, run_graph, tensors
from isobit.pipeline.stages import EpochLog

TEMPERATURE = 4.0
KEPT_OUT, LEAST_KEPT = 8, 4  # one sample in so many, and how many at least where that leaves as many to train on
LEAST = 0.1  # of a multiplier


@dataclass(frozen=True)
class Finish:
    """How long the finish trains, and how fast.

    Args:
        steps: of Adam.
        learning_rate: of multipliers and offsets, at the first step.
        rounding_rate: of v; 0 leaves the codes.
        batch: samples of one step.
    """

    steps: int
    learning_rate: float
    rounding_rate: float
    batch: int


def finish(calibration: Calibration, settings: Finish, predictions: FloatPredictions) -> None:
    """Change scales and biases in place; a note says what the loss was on samples that were kept out.

    Args:
        predictions: at least one, of the float network for all samples.
    """
    order = np.random.default_rng(calibration.seed("finish")).permutation(calibration.count)
    kept = max(1, min(LEAST_KEPT, calibration.count // 2), calibration.count // KEPT_OUT)
    judged, trained = torch.from_numpy(order[:kept]), order[kept:]
    if not len(trained):
        return
    began, network = time.perf_counter(), _Trained(calibration, settings, predictions)
    before = network.loss_of(judged)
    with network.attached():
        _train(network, settings, trained, calibration)
        after = network.loss_of(judged)
    if after < before:
        network.settle()
    said = f"from {before:.4g} to {after:.4g}" + ("" if after < before else ", not taken")
    losses = {"loss before": before, "loss after": after}
    calibration.progress.epoch(EpochLog(1, settings.steps, losses, time.perf_counter() - began))
    calibration.findings.notes.append(
        f"finish: loss of the whole network on {kept} samples kept out {said} ({settings.steps} steps)"
    )


def _train(network: _Trained, settings: Finish, trained: np.ndarray, calibration: Calibration) -> None:
    """All steps, on epochs of `trained`."""
    random = np.random.default_rng(calibration.seed("finish: batches"))
    size = min(settings.batch, len(trained))
    draws = np.concatenate([
        random.permutation(trained)[: len(trained) // size * size]
        for _ in range(-(-settings.steps * size // (len(trained) // size * size)))
    ])
    optimiser = torch.optim.Adam(network.variables)
    calibration.progress.training(1, settings.steps)
    for step in range(settings.steps):
        index = torch.from_numpy(draws[step * size : (step + 1) * size])
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * group["first"] * (1.0 + math.cos(math.pi * step / settings.steps))
        optimiser.zero_grad()
        network.loss(index).backward()
        optimiser.step()
        calibration.progress.step(1)


class _Trained(fx.Interpreter):
    """The quantized network with its variables: multipliers of scales and offsets of biases.

    Attributes:
        variables: what the optimiser moves, in groups with their `first` rate.
    """

    def __init__(self, calibration: Calibration, settings: Finish, predictions: FloatPredictions) -> None:
        super().__init__(calibration.graph)
        self.calibration, graph = calibration, calibration.graph
        self._predictions, self._found = predictions, dict[str, Tensor]()
        self._named = {_as_read(graph, node): node.name for node in graph.graph.nodes if node.name in predictions.names}
        self._activations = list(calibration.activations().values())
        self._weights = [quantizer for quantizer in calibration.weights().values() if quantizer.codes is not None]
        free = [*self._activations, *self._weights]
        self._start = {quantizer: quantizer.scale.detach().clone() for quantizer in free}
        self._factors = {q: torch.nn.Parameter(torch.ones_like(scale)) for q, scale in self._start.items()}
        self._units = _units(calibration)
        self._offsets = {
            bias: torch.nn.Parameter(torch.zeros_like(get_attribute(graph, bias))) for bias in self._units
        }
        learned = _weights(calibration) if settings.rounding_rate else []
        self._rounded = {quantizer: _Rounded(quantizer, weight) for quantizer, weight in learned}
        moved = [*self._factors.values(), *self._offsets.values()]
        self.variables: list[dict[str, Any]] = [{"params": moved, "first": settings.learning_rate}]
        if self._rounded:
            rounded = [each.moved for each in self._rounded.values()]
            self.variables.append({"params": rounded, "first": settings.rounding_rate})

    def scale(self, quantizer: Quantizer) -> Tensor:
        """As the variables have it."""
        if quantizer not in self._factors:
            return quantizer.scale
        return self._start[quantizer] * self._factors[quantizer].clamp(min=LEAST)

    def attached(self) -> Any:
        """Let the quantizers answer with the variables, until it is closed or left."""
        masks = MaskSource(0, self.calibration.device)
        mixtures = {q: Mixing(q, self._start[q], 1.0, masks, gradient_factor=False) for q in self._activations}

        def of_activation(quantizer: Quantizer) -> Any:
            def answer(x: Tensor) -> Tensor:
                mixture = mixtures[quantizer]
                mixture.scale = self.scale(quantizer)
                return mixture(x)

            return answer

        def of_weight(quantizer: Quantizer) -> Any:
            decided, rounded = _steps(quantizer, quantizer.decided.float()), self._rounded.get(quantizer)

            def answer(x: Tensor) -> Tensor:
                steps = decided if rounded is None else rounded.steps()
                return steps * along(self.scale(quantizer), quantizer.spec.axis, x.dim())

            return answer

        return stand_in_for([
            *((quantizer, of_activation(quantizer)) for quantizer in self._activations),
            *((quantizer, of_weight(quantizer)) for quantizer in self._weights),
        ])

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node; that of a bias with its offset."""
        tied = bias_quantizer_of(self.calibration.graph, n)
        if tied is not None:
            bias = self.env[n.all_input_nodes[0]]
            source, weight = tied.parents
            step = bias_scale(self.scale(source).detach(), self.scale(weight).detach())
            return bias + (on_steps(bias, step) - bias).detach()
        value = super().run_node(n)
        if n in self._named:
            self._found[self._named[n]] = value
        return value.detach() + self._offsets[n] * self._units[n] if n in self._offsets else value

    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the samples `index`."""
        device = self.calibration.device
        run_graph(self.run, on_device(part(self.calibration.images, index), device))
        return self._predictions.loss(self._found, index.to(device))

    @torch.no_grad()
    def loss_of(self, index: Tensor) -> float:
        """The mean over the samples `index`, a batch at a time."""
        total = 0.0
        for rows in batches(len(index), self.calibration.batch):
            total += float(self.loss(index[rows])) * (rows.stop - rows.start)
        return total / len(index)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the variables into the graph: scales into quantizers, codes as they were, and biases."""
        for quantizer in self._factors:
            codes = quantizer.codes
            if quantizer in self._rounded:
                codes = _steps(quantizer, self._rounded[quantizer].steps(), -1).round().to(torch.int32)
            rounded_at = self._start[quantizer] if quantizer.rounded_at is None else quantizer.rounded_at
            quantizer.set_params(QParams(self.scale(quantizer).detach().clone(), quantizer.zero_point))
            if codes is not None:
                quantizer.harden(codes, rounded_at)
        for bias, offset in self._offsets.items():
            get_attribute(self.calibration.graph, bias).add_(offset * self._units[bias])


def _as_read(graph: fx.GraphModule, value: fx.Node) -> fx.Node:
    """The quantizer of a value that nobody reads without it; else the value."""
    readers = list(value.users)
    return readers[0] if readers and all(quantizer_of(graph, reader) is not None for reader in readers) else value


class _Rounded:
    """The codes of one weight, less its zero point, as they are learned.

    Attributes:
        moved: v, in the shape of the weight.
    """

    def __init__(self, quantizer: Quantizer, weight: Tensor) -> None:
        grid = quantizer.spec.grid
        scale, _ = quantizer.aligned(weight)
        self._low, self._high = (_steps(quantizer, torch.full_like(weight, end)) for end in (grid.qmin, grid.qmax))
        ratio = weight.detach() / scale
        self._ratio = torch.minimum(torch.maximum(ratio, self._low), self._high)
        away = _steps(quantizer, quantizer.decided.float()) - torch.round(self._ratio)
        self.moved = torch.nn.Parameter(away.sign() * FARTHEST)

    def steps(self) -> Tensor:
        """Whole numbers; the gradient passes to v."""
        with torch.no_grad():
            self.moved.clamp_(-FARTHEST, FARTHEST)
        soft = self._ratio + self.moved
        hard = torch.minimum(torch.maximum(torch.round(soft), self._low), self._high)
        return soft + (hard - soft).detach()


def _steps(quantizer: Quantizer, codes: Tensor, sign: int = 1) -> Tensor:
    """`codes` less the zero point, or with it where `sign` is -1."""
    return codes - sign * along(quantizer.zero_point.float(), quantizer.spec.axis, codes.dim())


def _weights(calibration: Calibration) -> list[tuple[Quantizer, Tensor]]:
    """Every weight whose rounding can be learned, with its quantizer."""
    nodes = nodes_by_name(calibration.graph)
    return [
        (quantizer, get_attribute(calibration.graph, source_of(nodes[name])))
        for name, quantizer in calibration.weights().items() if quantizer.codes is not None
    ]


class _Results(fx.Interpreter):
    """Keeps the root mean square of every layer's result."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        value = super().run_node(n)
        if op_name(n) in WEIGHTED:
            self.found[n] = value.square().mean().sqrt()
        return value


@torch.no_grad()
def _units(calibration: Calibration) -> dict[fx.Node, Tensor]:
    """The bias of each layer that has one of its own -> the size of the layer's results, on the first samples."""
    results = _Results(calibration.graph)
    results.run(*tensors(calibration.batch_at(slice(0, calibration.batch))))
    biases = {layer: bound_args(layer)["bias"] for layer in results.found}
    return {
        stated(bias): results.found[layer] for layer, bias in biases.items() if bias is not None and reads_alone(bias)
    }
