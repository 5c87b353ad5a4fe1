"""What the finish learns: multipliers of scales, offsets of biases and the rounding of weights, in a graph that runs.

    scale of an activation   s_a = s0_a * m_a
    scale of a weight        s_w = s0_w * m_w, one m_w for each channel that has a scale
    code of a weight         k   = clamp(round(w / s0_w + v)),   v in [-0.5, 0.5]: the codes next to it, as in SignRound
    bias                     b   = b0 + u o,   u the layer's root mean square result, one o for each channel

All m start at 1 and all o at 0; v starts where it gives the decided code. Rounding passes the gradient (LSQ, arXiv
1902.08153; SignRound, arXiv 2309.05516). All of it folds into scales, codes and biases: targets compute nothing new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from isobit.calib.context import Calibration
from isobit.calib.corrections.equalize import reads_alone, stated
from isobit.calib.reconstruction.mixing import MaskSource, Mixing
from isobit.calib.roundings.channel_scales import LEAST
from isobit.calib.roundings.signed_offsets import FARTHEST
from isobit.calib.training.recompute import runner
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
from isobit.pipeline.recipe.schema import FinishRule
from isobit.pipeline.samples.network_inputs import Inputs, run_graph, tensors

NEXT = 0.99  # of a code: from where v can reach the next one


class TrainedNetwork(fx.Interpreter):
    """The quantized network with its variables.

    Args:
        calibration: every code of a weight is decided.
        rule: what is learned, and how fast.
        names: nodes whose values `answers` gives.

    Attributes:
        variables: what the optimiser moves, in groups with their `first` rate.
    """

    def __init__(self, calibration: Calibration, rule: FinishRule, names: Sequence[str]) -> None:
        super().__init__(calibration.graph)
        self.calibration, graph = calibration, calibration.graph
        self._found = dict[str, Tensor]()
        self._named = defaultdict[fx.Node, list[str]](list)  # a value and its quantizer may both be asked for
        for node in graph.graph.nodes:
            if node.name in names:
                self._named[_as_read(graph, node)].append(node.name)
        self._activations = list(calibration.activations().values())
        self._weights = [quantizer for quantizer in calibration.weights().values() if quantizer.codes is not None]
        self._start = {q: q.scale.detach().clone() for q in (*self._activations, *self._weights)}
        self._units = _units(calibration)
        self._factors, self._offsets = dict[Quantizer, Tensor](), dict[fx.Node, Tensor]()
        self._rounded = dict[Quantizer, _Rounded]()
        if "scales" in rule.what:
            self._factors = {q: torch.nn.Parameter(torch.ones_like(scale)) for q, scale in self._start.items()}
        if "biases" in rule.what:
            zeros = {bias: torch.zeros_like(get_attribute(graph, bias)) for bias in self._units}
            self._offsets = {bias: torch.nn.Parameter(zero) for bias, zero in zeros.items()}
        if "rounding" in rule.what:
            self._rounded = {quantizer: _Rounded(quantizer, weight) for quantizer, weight in _weights(calibration)}
        rounded = [each.moved for each in self._rounded.values()]
        groups = [([*self._factors.values(), *self._offsets.values()], rule.rate), (rounded, rule.rounding_rate)]
        self.variables: list[dict[str, Any]] = [{"params": each, "first": rate} for each, rate in groups if each]
        self._forward = runner(self, calibration.units, calibration.recipe.images.batch_size, calibration.device)

    def moved(self) -> list[Tensor]:
        """All variables."""
        return [each for group in self.variables for each in group["params"]]

    def values(self) -> list[Tensor]:
        """A copy of all variables."""
        return [each.detach().clone() for each in self.moved()]

    @torch.no_grad()
    def set_values(self, values: Sequence[Tensor]) -> None:
        """Put back what `values` gave."""
        for each, value in zip(self.moved(), values, strict=True):
            each.copy_(value)

    def scale(self, quantizer: Quantizer) -> Tensor:
        """As the variables have it."""
        if quantizer not in self._factors:
            return self._start.get(quantizer, quantizer.scale)
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
        for name in self._named.get(n, ()):
            self._found[name] = value
        return value.detach() + self._offsets[n] * self._units[n] if n in self._offsets else value

    def answers(self, inputs: Inputs) -> dict[str, Tensor]:
        """The values of the named nodes for a batch on the device."""
        run_graph(self._forward, inputs)
        return self._found

    @torch.no_grad()
    def settle(self) -> None:
        """Write the variables into the graph: scales into quantizers, codes as they were, and biases."""
        for quantizer in self._start:
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
        rounded_at = quantizer.scale if quantizer.rounded_at is None else quantizer.rounded_at
        self._low, self._high = (_steps(quantizer, torch.full_like(weight, end)) for end in (grid.qmin, grid.qmax))
        ratio = weight.detach() / along(rounded_at, quantizer.spec.axis, weight.dim())
        decided = _steps(quantizer, quantizer.decided.float())
        # A method may have sent a weight further than to a neighbour; then the decided code counts, not the weight.
        ratio = torch.minimum(torch.maximum(ratio, decided - NEXT), decided + NEXT)
        self._ratio = torch.minimum(torch.maximum(ratio, self._low), self._high)
        away = decided - torch.round(self._ratio)
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
    results.run(*tensors(calibration.batch_at(slice(0, calibration.recipe.images.batch_size))))
    biases = {layer: bound_args(layer)["bias"] for layer in results.found}
    return {
        stated(bias): results.found[layer] for layer, bias in biases.items() if bias is not None and reads_alone(bias)
    }
