"""The reference evaluated exactly: the frozen graph in float64, with the integer code of every quantized tensor.

Float64 does not depend on the order of summation, so this is the mathematical truth of the frozen graph; what remains
between it and a runtime is the runtime's requantization rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.node import map_arg

from isobit.backends.execution.codes import stored
from isobit.backends.execution.layer_sums import explicit_padding
from isobit.backends.execution.ties import call
from isobit.backends.regions import Region
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.nodes import (
    bound_args,
    get_attribute,
    is_constant,
    op_name,
    pair,
    quantizer_of,
    source_of,
    where,
)
from isobit.pipeline.graph.ports import output_names
from isobit.pipeline.graph.quantized_tensors import quantized_tensors, quantizer_at
from isobit.pipeline.graph.subgraphs import fold_constants
from isobit.pipeline.proof.arithmetic import Chosen, Followed
from isobit.pipeline.proof.counts import Reach
from isobit.pipeline.samples.network_inputs import Inputs, in_floats, run_graph
from isobit.pipeline.stages import Reference


class _CodeRecorder(fx.Interpreter):
    """Runs a frozen graph and keeps the stored codes of every activation quantizer."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.graph_module = graph
        self.codes: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        quantizer = None if is_constant(n) else quantizer_of(self.graph_module, n)
        if quantizer is not None:
            codes = quantizer.quantize(self.fetch_args_kwargs_from_env(n)[0][0])
            self.codes[n.name] = samples_of(n).gather(stored(codes - quantizer.spec.grid.qmin))
            return quantizer.dequantize(codes)
        if op_name(n) == "conv2d":
            arguments = map_arg(bound_args(n), lambda source: self.env[source])
            if arguments["weight"].shape[1] == 1 and arguments["groups"] == arguments["input"].shape[1]:
                return _depthwise(arguments)
        return super().run_node(n)


def _depthwise(arguments: Mapping[str, Any]) -> Tensor:
    """A convolution of single channels, tap by tap: float64 has no kernel for it, and PyTorch runs group by group."""
    weight, dilation, stride = arguments["weight"], pair(arguments["dilation"]), pair(arguments["stride"])
    kernel = tuple(weight.shape[2:])
    top, left, bottom, right = explicit_padding(arguments["padding"], kernel, dilation)
    x = F.pad(arguments["input"], (left, right, top, bottom)).repeat_interleave(len(weight) // arguments["groups"], 1)
    ends = [(x.shape[2 + axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in (0, 1)]
    bias = weight.new_zeros(len(weight)) if arguments["bias"] is None else arguments["bias"]
    total = bias.reshape(1, -1, 1, 1).repeat(len(x), 1, *ends)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows, columns = (
                slice(tap * dilation[axis], tap * dilation[axis] + stride[axis] * (ends[axis] - 1) + 1, stride[axis])
                for axis, tap in enumerate((row, column))
            )
            total.addcmul_(x[:, :, rows, columns], weight[:, 0, row, column].reshape(1, -1, 1, 1))
    return total


class ExactRegions:
    """The exact evaluation of one region at a time: integers of its quantizer, from what its operators read.

    Args:
        graph: frozen.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = fold_constants(graph, torch.float64)
        self._nodes = {node.name: node for node in self.graph.graph.nodes}

    @torch.no_grad()
    def codes(self, region: Region, given: Mapping[fx.Node, Tensor]) -> Tensor:
        """Codes of the region's quantizer as they are stored, in float64.

        Args:
            given: float64 values of nodes of the graph: of what the region reads, or of its first operators.
        """
        if region.quantizer is None:
            raise TypeError(f"{where(region.anchor)} gives no codes")
        known = {self._nodes[node.name]: value for node, value in given.items()}
        for node in (self._nodes[each.name] for each in (region.anchor, *region.absorbed)):
            if node not in known and node.name != region.quantizer.name:
                known[node] = call(node, lambda source: self._value(source, known))
        node = self._nodes[region.quantizer.name]
        quantizer = quantizer_at(self.graph, node)
        return quantizer.quantize(known[source_of(node)]) - quantizer.spec.grid.qmin

    def _value(self, node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Any:
        if node in known:
            return known[node]
        if node.op == "get_attr":
            return get_attribute(self.graph, node).detach()
        return self.graph.get_submodule(str(node.target))(self._value(source_of(node), known))


class ExactArithmetic:
    """`Arithmetic` of the exact evaluation.

    Codes are reported as runtimes store them: shifted to uint8, `code - qmin`. No boundary of a float operator stands
    out: everything is float64, the runtime that is compared with it (PyTorch on the saved graph) included.
    """

    float_boundaries: tuple[str, ...] = ()
    jumping: frozenset[str] = frozenset()
    float_outputs: tuple[str, ...] = ()

    def __init__(self, reference: Reference) -> None:
        self.graph = fold_constants(reference.graph, torch.float64)
        self.outputs = output_names(self.graph)

    def run(self, x: Inputs) -> Mapping[str, np.ndarray]:
        """Codes uint8 by quantizer name in execution order, and each float32 output by its name."""
        recorder = _CodeRecorder(self.graph)
        with torch.no_grad():
            returned = run_graph(recorder.run, in_floats(x, torch.float64))
        results = {name: codes.contiguous().numpy() for name, codes in recorder.codes.items()}
        outputs = zip(self.outputs, (value.float().numpy() for value in returned), strict=True)
        return {**results, **dict(outputs)}

    def follow(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Followed:
        """`run`: there is nothing to take over."""
        return Followed(self.run(x), {})

    def directed(self, like: Inputs) -> Chosen | None:
        """None: PyTorch runs the saved graph as it runs this one."""
        return None

    def pieces(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Followed:
        """Nobody asks for layers by themselves."""
        raise NotImplementedError("there are no directed samples of the exact evaluation")

    def every_input(self) -> list[Reach]:
        """Equal: this is the exact evaluation."""
        return [Reach(tensor.name, "itself") for tensor in quantized_tensors(self.graph).activations()]
