"""Empirical bias correction: what rounding moves the mean of a channel by is taken off its bias.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), arXiv 1906.04721, section
4.2 and appendix D; A White Paper on Neural Network Quantization (2021), arXiv 2106.08295, section 3.3. Errors of
rounded weights and clipped inputs do not cancel over an image: they shift whole channels, most of all where few
products are added (depthwise convolutions).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from isobit.calib.context import Calibration
from isobit.calib.corrections.equalize import reads_alone, stated
from isobit.calib.reconstruction.boundary import batches
from isobit.pipeline.graph.layers import weighted_layers
from isobit.pipeline.graph.nodes import bias_quantizer_of, bound_args, get_attribute, op_name, quantizer_of
from isobit.pipeline.samples.network_inputs import tensors


@torch.no_grad()
def correct_biases(calibration: Calibration) -> int:
    """Change the biases in place, after all codes of weights are decided; how many layers were corrected.

    Every sample passes once in float and once quantized; there each layer's result is corrected by the sample's own
    difference before it goes on, so that a layer answers for its own error only. The bias gets the mean difference.
    """
    graph = calibration.graph
    biases = {
        layer: stated(bias) for layer in weighted_layers(graph)
        if (bias := bound_args(layer)["bias"]) is not None and reads_alone(bias)
        and quantizer_of(graph, bound_args(layer)["weight"]) is not None
    }
    if not biases:
        return 0
    teacher, student = _Float(graph, biases), _Corrected(graph, biases)
    for part in batches(calibration.count, calibration.batch):
        inputs = tensors(calibration.batch_at(part))
        teacher.run(*inputs)
        student.wanted = teacher.means
        student.run(*inputs)
    for layer, bias in biases.items():
        values = get_attribute(graph, bias)
        values.copy_(values.double() + student.differences[layer] / student.rows[layer])
    return len(biases)


class _Float(fx.Interpreter):
    """The network without its quantizers.

    Attributes:
        means: of each layer in the last run, [rows, channels], see `_mean`.
    """

    def __init__(self, graph: fx.GraphModule, layers: dict[fx.Node, fx.Node]) -> None:
        super().__init__(graph)
        self.graph_module, self.layers = graph, layers
        self.means: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node; of a quantizer the value that it reads."""
        if quantizer_of(self.graph_module, n) or bias_quantizer_of(self.graph_module, n):
            return self.env[n.all_input_nodes[0]]
        value = super().run_node(n)
        if n in self.layers:
            self.means[n] = _mean(n, value)
        return value


class _Corrected(fx.Interpreter):
    """The quantized network in which every layer's result has the means `wanted`.

    Attributes:
        differences: of each layer, float64 [channels], the sum over rows of what was added.
        rows: how many there were.
    """

    def __init__(self, graph: fx.GraphModule, layers: dict[fx.Node, fx.Node]) -> None:
        super().__init__(graph)
        self.wanted: dict[fx.Node, Tensor] = {}
        self.differences: dict[fx.Node, Tensor] = {layer: torch.zeros((), dtype=torch.float64) for layer in layers}
        self.rows = dict.fromkeys(layers, 0)

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node, that of a layer corrected."""
        value = super().run_node(n)
        if n not in self.rows:
            return value
        difference = self.wanted[n] - _mean(n, value)
        self.differences[n] = self.differences[n].to(value.device) + difference.double().sum(0)
        self.rows[n] += len(difference)
        between = [1] * (value.dim() - 2)
        shape = (len(value), *between, -1) if op_name(n) == "linear" else (len(value), -1, *between)
        return value + difference.reshape(shape)


def _mean(layer: fx.Node, value: Tensor) -> Tensor:
    """[rows, channels]: of each entry of the first axis, over all axes but that of the channels."""
    if value.dim() == 2:
        return value
    return value.flatten(1, -2).mean(1) if op_name(layer) == "linear" else value.flatten(2).mean(2)
