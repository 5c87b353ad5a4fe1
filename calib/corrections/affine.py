"""Each channel of a layer's result gets the factor and the offset that bring it nearest to the float network's.

QwT-v2 (Quantization without Tears, closed form per channel) compensates a block's output by y' = a y + b. Here it is
every layer's own result, before its activation function: only there does the affine map fold away exactly, the factor
into the scale of the weight, whose codes stay, and the offset into the bias. Least squares over samples and positions:

    a = covariance(y, f) / variance(y),   b = mean(f) - a mean(y)

with y the quantized and f the float result. A layer without a bias of its own keeps b = 0, and a weight that has one
scale for all channels gets one a for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from isobit.calib.context import Calibration
from isobit.calib.corrections.equalize import reads_alone, stated
from isobit.calib.reconstruction.boundary import batches
from isobit.pipeline.graph.layers import weighted_layers
from isobit.pipeline.graph.nodes import bias_quantizer_of, bound_args, get_attribute, op_name, quantizer_of
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.samples.network_inputs import tensors

FACTORS = (0.5, 2.0)  # what a factor is held between: beyond that a channel says little about the float network's


@torch.no_grad()
def correct_affine(calibration: Calibration) -> int:
    """Change scales of weights and biases in place, after all codes are decided; how many layers were corrected.

    Every sample passes once, in float and quantized side by side. There a layer's result is corrected by its batch's
    own map before it goes on, so that a layer answers for its own error only.
    """
    graph = calibration.graph
    fits = {layer: fit for layer in weighted_layers(graph) if (fit := _fit_of(graph, layer)) is not None}
    if not fits:
        return 0
    network = _SideBySide(graph, fits)
    # The recipe's batches: how much memory there is must not decide what is learned.
    for part in batches(calibration.count, calibration.recipe.images.batch_size):
        network.run(*tensors(calibration.batch_at(part)))
    for fit in fits.values():
        fit.store()
    return len(fits)


@dataclass(frozen=True)
class _Both:
    """A value in the float network and in the quantized one."""

    float: Any
    quantized: Any


class _Sums:
    """Sums over rows of y, f, y y and y f, each float64 [channels], and the number of rows."""

    def __init__(self) -> None:
        self.rows, self._sums = 0, None

    def add(self, y: Tensor, f: Tensor) -> _Sums:
        """More rows [rows, channels]; returns itself."""
        y, f = y.double(), f.double()
        found = torch.stack([y.sum(0), f.sum(0), (y * y).sum(0), (y * f).sum(0)])
        self.rows += len(y)
        self._sums = found if self._sums is None else self._sums + found
        return self

    def solve(self, shared: bool, offset: bool) -> tuple[Tensor, Tensor]:
        """(a, b), float64 [channels] each.

        Args:
            shared: one a for all channels.
            offset: whether b is free, not 0.
        """
        if self._sums is None:
            raise RuntimeError("no sample has passed")
        y, f, yy, yf = self._sums / self.rows
        mean_y, mean_f = (y, f) if offset else (torch.zeros_like(y), torch.zeros_like(f))
        variance, covariance = yy - mean_y * mean_y, yf - mean_y * mean_f
        if shared:
            variance, covariance = variance.sum().expand_as(y), covariance.sum().expand_as(y)
        # A channel that is always the same, up to what float32 tells apart, says nothing about its factor.
        known = variance > 1e-6 * yy.clamp(min=torch.finfo(torch.float32).tiny)
        factor = torch.where(known, covariance / variance, 1.0).clamp(*FACTORS)
        return factor, mean_f - factor * mean_y


class _Fit:
    """One layer's map, as far as all samples so far tell.

    Args:
        layer: with a weight whose codes are decided.
        weight: its quantizer.
        bias: the layer's own; None where it has none.
    """

    def __init__(self, layer: fx.Node, weight: Quantizer, bias: Tensor | None) -> None:
        self._linear = op_name(layer) == "linear"
        self._weight, self._bias = weight, bias
        self._shared, self._sums = weight.scale.dim() == 0, _Sums()

    def corrected(self, both: _Both) -> _Both:
        """Look at a batch's results; the quantized one comes back nearest to the float one."""
        y, f = self._rows(both.quantized), self._rows(both.float)
        self._sums.add(y, f)
        factor, offset = _Sums().add(y, f).solve(self._shared, self._bias is not None)
        shape = (-1,) if self._linear else (-1, *[1] * (both.quantized.dim() - 2))
        factor, offset = (part.to(both.quantized.dtype).reshape(shape) for part in (factor, offset))
        return _Both(both.float, both.quantized * factor + offset)

    def _rows(self, result: Tensor) -> Tensor:
        """[samples and positions, channels]."""
        return (result if self._linear else result.movedim(1, -1)).reshape(-1, result.shape[-1 if self._linear else 1])

    def store(self) -> None:
        """Fold the map into the scale of the weight, codes as they are, and into the bias."""
        factor, offset = self._sums.solve(self._shared, self._bias is not None)
        weight, codes, before = self._weight, self._weight.decided, self._weight.params.scale
        rounded_at = before if weight.rounded_at is None else weight.rounded_at
        scale = before.double() * (factor[0] if self._shared else factor)
        weight.set_params(QParams(scale.to(before), weight.zero_point))
        weight.harden(codes, rounded_at)
        if self._bias is not None:
            self._bias.copy_(self._bias.double() * factor + offset)


def _fit_of(graph: fx.GraphModule, layer: fx.Node) -> _Fit | None:
    """What can be corrected of a layer; None where its weight has no codes, fixed scales, or other readers."""
    args = bound_args(layer)
    bias, quantizer = args["bias"], quantizer_of(graph, args["weight"])
    if quantizer is None or quantizer.codes is None or quantizer.fixed or not reads_alone(args["weight"]):
        return None
    if bias is not None and not reads_alone(bias):
        return None
    return _Fit(layer, quantizer, None if bias is None else get_attribute(graph, stated(bias)))


class _SideBySide(fx.Interpreter):
    """The network in float and quantized in one walk, so that no more than a step's values are alive.

    Args:
        fits: of layers, whose quantized results go on corrected.
    """

    def __init__(self, graph: fx.GraphModule, fits: Mapping[fx.Node, _Fit]) -> None:
        super().__init__(graph)
        self.graph_module, self.fits = graph, fits

    def run_node(self, n: fx.Node) -> Any:
        """Both values of a node; of a quantizer in the float network the value that it reads."""
        if n.op == "output":
            return None
        if n.op in ("placeholder", "get_attr"):
            value = super().run_node(n)
            return _Both(value, value)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        quantized = self._call(n, _side(args, "quantized"), _side(kwargs, "quantized"))
        if quantizer_of(self.graph_module, n) or bias_quantizer_of(self.graph_module, n):
            return _Both(_side(args, "float")[0], quantized)
        both = _Both(self._call(n, _side(args, "float"), _side(kwargs, "float")), quantized)
        return self.fits[n].corrected(both) if n in self.fits else both

    def _call(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        return getattr(self, n.op)(n.target, args, kwargs)


def _side(values: Any, name: str) -> Any:
    return map_aggregate(values, lambda value: getattr(value, name) if isinstance(value, _Both) else value)
