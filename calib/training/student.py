"""The network under quantization-aware training: the quantized graph, with its batch norms put back as trained parts.

The graph's batch norms are folded. The student unfolds them into a latent weight, gamma and beta beside the running
statistics, trains those, and `settle` folds them again, exactly: what is trained is what the artifact computes. How a
latent weight becomes codes and how an activation becomes codes are parts that a method supplies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from isobit.calib.context import Calibration
from isobit.calib.ranges.averages import covered
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.annotation import kept_float
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    bound_args,
    get_attribute,
    is_constant,
    op_name,
    overload_of,
    quantizer_of,
    set_attribute,
    source_of,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.norms import FoldedNorm, folded_norm
from isobit.pipeline.quant.grid import (
    Grid,
    QParams,
    QuantSpec,
    along,
    dequantize,
    params_from_range,
    quantize,
    usable_scale,
)
from isobit.pipeline.quant.quantizer import Phase, Quantizer, bias_scale, on_steps
from isobit.pipeline.shapes import known_sizes

NormMode = Literal["frozen", "train"]
MOMENTUM = 0.1


class WeightCoder(nn.Module, ABC):
    """A module that turns a latent weight into its quantized value, and finally into codes.

    Called with the weight, it answers with the quantized value, with whatever gradient the method defines.
    """

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """The scale of the last call, rank 0 or [channels]."""

    @property
    def channel_bits(self) -> Tensor | None:
        """int [channels] where levels are not uniform."""
        return None

    @abstractmethod
    def codes(self, weight: Tensor) -> tuple[QParams, Tensor]:
        """Scale and zero point, and the int32 codes of `weight`."""


class ActivationCoder(nn.Module, ABC):
    """A module that turns an activation into its quantized value, and finally into a grid."""

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """As it stands, rank 0."""

    @abstractmethod
    def settle(self, quantizer: Quantizer) -> None:
        """Write the numbers into the graph's quantizer."""


MakeWeightCoder = Callable[[Quantizer, tuple[int, ...]], WeightCoder]
MakeActivationCoder = Callable[[Quantizer, tuple[int, ...]], ActivationCoder]


def rounded(x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """`x` on its grid; the gradient passes everywhere as if nothing had happened, also where `x` was clamped.

    The straight-through estimator of GDFQ's, FDDA's and ZeroQ's code for min-max grids.
    """
    scale, zero_point = (along(v.to(x.dtype), spec.axis, x.dim()) for v in (scale, zero_point))
    return _Rounded.apply(x, scale, zero_point, spec.grid)


class _Rounded(torch.autograd.Function):
    """Quantize and dequantize in one buffer; backwards nothing happens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
        return dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *grads, None, None, None


class MinMaxWeights(WeightCoder):
    """Weights between their own extremes, of each output channel, found anew at every call."""

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self._params: QParams | None = None

    @property
    def scale(self) -> Tensor:
        """What the last call left; raises RuntimeError before the first."""
        if self._params is None:
            raise RuntimeError("the scale of a weight that was never quantized")
        return self._params.scale

    def params(self, weight: Tensor) -> QParams:
        """From the extremes of `weight`, with 0 inside the range."""
        rows = weight.detach().reshape(1 if self.spec.axis is None else weight.shape[0], -1)
        low, high = rows.amin(1), rows.amax(1)
        if self.spec.axis is None:
            low, high = low[0], high[0]
        return params_from_range(low, high, self.spec)

    def forward(self, weight: Tensor) -> Tensor:
        params = self._params = self.params(weight)
        return rounded(weight, params.scale, params.zero_point, self.spec)

    def codes(self, weight: Tensor) -> tuple[QParams, Tensor]:
        params = self.params(weight)
        scale, zero_point = (
            along(v.to(weight.dtype), self.spec.axis, weight.dim()) for v in (params.scale, params.zero_point)
        )
        return params, quantize(weight.detach(), scale, zero_point, self.spec.grid).to(torch.int32)


class FixedGrid(ActivationCoder):
    """An activation whose grid the target prescribes."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    @property
    def scale(self) -> Tensor:
        """The prescribed one."""
        return self.quantizer.scale

    def ends(self) -> tuple[Tensor, Tensor]:
        """(lowest, highest) value of the grid."""
        return covered(self.quantizer)

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer.fake_quantize(x)

    def settle(self, quantizer: Quantizer) -> None:
        """Nothing: the numbers were there before."""


class Layer(nn.Module):
    """One convolution or linear layer: latent weight, quantized on the way, and its batch norm where it had one.

    Args:
        mode: `frozen` normalises with the running statistics, so that the batch norm is an affine map per channel:
            weights are quantized as they will be folded. `train` normalises with the batch's statistics and updates the
            running ones; weights are quantized before the fold but for its sign, which asymmetric grids would feel.
        source: the coder of the layer's input where its bias becomes int32 at scale input * weight. The student sees
            that rounding, too, but for batch norms in training mode, whose bias is made by the fold.
        coder: None where the weight stays in float.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, graph: fx.GraphModule, node: fx.Node, coder: WeightCoder | None, quantizer: Quantizer | None,
        mode: NormMode, source: ActivationCoder | None,
    ) -> None:
        super().__init__()
        self.node, self.mode, self.coder, self.quantizer = node, mode, coder, quantizer
        self._source = (source,)  # in a tuple: it is registered where it stands in the graph
        args = bound_args(node)
        weight, bias = _value(graph, args["weight"]), None
        if args["bias"] is not None:
            bias = _value(graph, args["bias"])
        norm = folded_norm(node)
        self.normed = norm is not None
        if norm is not None:
            self._unfold(weight, bias, norm.to(weight.device))
        else:
            self.weight = nn.Parameter(weight.clone())
            self.bias = None if bias is None else nn.Parameter(bias.clone())

    def _unfold(self, weight: Tensor, bias: Tensor | None, norm: FoldedNorm) -> None:
        """weight' = weight * factor and bias' = beta - mean * factor, backwards; a bias of its own goes into the mean.

        Channels that the fold lost (factor about 0) keep the folded weight: times their factor it is nothing again.
        """
        factor = torch.where(norm.usable, norm.factor, torch.ones_like(norm.factor))
        self.eps = norm.eps
        self.weight = nn.Parameter(weight / along(factor, 0, weight.dim()))
        self.gamma = nn.Parameter(norm.factor * torch.sqrt(norm.variance + norm.eps))
        self.beta = nn.Parameter(norm.beta.clone())
        shift = norm.beta if bias is None else norm.beta - bias
        self.register_buffer("mean", torch.where(norm.usable, shift / factor, norm.mean))
        self.register_buffer("variance", norm.variance.clone())

    @property
    def factor(self) -> Tensor:
        """gamma / sqrt(variance + eps) as it stands, [C]."""
        return self.gamma / torch.sqrt(self.variance + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        if not self.normed:
            return self._apply_operator(x, self._coded(self.weight), self.bias)
        if self.mode == "frozen":
            return self._apply_operator(x, self._coded(self._folded_weight()), self._folded_bias())
        y = self._apply_operator(x, self._coded(self.weight * self._sign()), None) * self._sign().reshape(
            1, -1, *[1] * (x.dim() - 2))
        return F.batch_norm(
            y, self.mean, self.variance, self.gamma, self.beta, self.training, MOMENTUM, self.eps
        )

    def _coded(self, weight: Tensor) -> Tensor:
        return weight if self.coder is None else self.coder(weight)

    def _sign(self) -> Tensor:
        """Sign of each channel's factor, shaped like the weight."""
        return along(torch.where(self.gamma.detach() < 0, -1.0, 1.0), 0, self.weight.dim())

    def _apply_operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (source,) = self._source
        if bias is not None and source is not None and self.coder is not None:
            step = bias_scale(source.scale.detach(), self.coder.scale.detach())
            bias = bias + (on_steps(bias, step) - bias).detach()
        args = bound_args(self.node) | {"weight": weight, "bias": bias}
        args[next(iter(args))] = x
        return overload_of(self.node)(*args.values())

    def _folded_weight(self) -> Tensor:
        return self.weight * along(self.factor, 0, self.weight.dim())

    def _folded_bias(self) -> Tensor:
        return self.beta - self.mean * self.factor

    @torch.no_grad()
    def settle(self, graph: fx.GraphModule) -> None:
        """Write folded weight, bias, scale and codes into the graph."""
        args = bound_args(self.node)
        weight, bias = (self._folded_weight(), self._folded_bias()) if self.normed else (self.weight, self.bias)
        _store(graph, args["weight"], weight)
        if bias is not None:
            _store(graph, args["bias"], bias)
        if self.quantizer is None or self.coder is None:
            return
        if self.normed and self.mode == "train":
            params, codes = self.coder.codes(self.weight * self._sign())
            params = QParams(usable_scale(params.scale * self.factor.abs()), params.zero_point)
        else:
            params, codes = self.coder.codes(weight)
        self.quantizer.set_params(params)
        if self.coder.channel_bits is not None:
            self.quantizer.set_channel_bits(self.coder.channel_bits)
        self.quantizer.harden(codes)


def _value(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    return get_attribute(graph, _parameter(node)).detach()


def _parameter(node: fx.Node) -> fx.Node:
    """The `get_attr` node of a weight or bias and its quantizer."""
    return node if node.op == "get_attr" else source_of(node)


def _store(graph: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    set_attribute(graph, str(_parameter(node).target), value.detach().clone())


class Student(nn.Module):
    """The whole network, trainable.

    Args:
        calibration: its graph is read here and written by `settle`.
        weights: makes the coder of one layer's weight from its quantizer and shape [O, ...].
        activations: makes the coder of one activation from its quantizer and the shape [C, ...] of one image's;
            quantizers that the target fixes are not asked for.
        mode: of all batch norms; see `Layer`.

    Raises:
        CalibrationError: weights that share a parameter, or that a mode cannot train.
    """

    def __init__(
        self, calibration: Calibration, weights: MakeWeightCoder, activations: MakeActivationCoder, mode: NormMode,
    ) -> None:
        super().__init__()
        self.graph = [calibration.graph]  # in a list: its parameters are not the student's
        self.layers, self.sites = nn.ModuleDict(), nn.ModuleDict()
        self._layers: list[Layer] = []  # what `layers` holds
        self._coders: dict[Quantizer, ActivationCoder] = {}
        owners: dict[str, fx.Node] = {}
        for node in calibration.graph.graph.nodes:
            quantizer = quantizer_of(calibration.graph, node)
            if op_name(node) in WEIGHTED and not kept_float(node):
                self._add_layer(node, weights, mode, owners)
            elif quantizer is not None and not is_constant(node):
                if quantizer not in self._coders:
                    self._coders[quantizer] = (
                        FixedGrid(quantizer) if quantizer.fixed
                        else activations(quantizer, known_sizes(tensor_shape(node)[1:]))
                    )
                self.sites[node.name] = self._coders[quantizer]
        self.to(calibration.device)

    def _add_layer(
        self, node: fx.Node, weights: MakeWeightCoder, mode: NormMode, owners: dict[str, fx.Node]
    ) -> None:
        graph, weight = self.graph[0], bound_args(node)["weight"]
        owner = owners.setdefault(str(_parameter(weight).target), node)
        if owner is not node:
            raise CalibrationError(
                f"the weight is shared with {where(owner)}: it cannot be trained as two", where=where(node),
                hint="take a method that reconstructs, for example qdrop", field="recipe.method.name",
            )
        quantizer = quantizer_of(graph, weight)
        coder = None if quantizer is None else weights(quantizer, tuple(_value(graph, weight).shape))
        bias = bound_args(node)["bias"]
        rounds = bias_quantizer_of(graph, bias) if bias is not None else None
        source = self._coders[rounds.parents[0]] if rounds is not None else None
        self._layers.append(Layer(graph, node, coder, quantizer, mode, source))
        self.layers[node.name] = self._layers[-1]

    def activation(self, quantizer: Quantizer) -> ActivationCoder | None:
        """The coder that stands for `quantizer` of the graph; None where it is not an activation's."""
        return self._coders.get(quantizer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        return _StudentInterpreter(self).run(x)

    def settle(self) -> None:
        """Write what was learned into the graph, and switch every quantizer ON."""
        graph = self.graph[0]
        for layer in self._layers:
            layer.settle(graph)
        for node in graph.graph.nodes:
            quantizer = quantizer_of(graph, node)
            module = quantizer or bias_quantizer_of(graph, node)
            if quantizer is not None and node.name in self.sites:
                self._coders[quantizer].settle(quantizer)
            if module is not None:
                module.phase = Phase.ON


class _StudentInterpreter(fx.Interpreter):
    """Runs the graph with the student's layers and sites in the place of the nodes that they stand for."""

    def __init__(self, student: Student) -> None:
        super().__init__(student.graph[0])
        self.student = student

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.student.layers:
            return self.student.layers[n.name](self.env[source_of(n)])
        if n.name in self.student.sites:
            return self.student.sites[n.name](self.env[source_of(n)])
        if n.op == "call_module":  # the quantizer of a weight or bias: its layer knows better
            return None
        return super().run_node(n)
