"""The frozen graph as a file that PyTorch runs in float64, with the codes of every quantized tensor as outputs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.exact import ExactArithmetic
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.nodes import tensor_dtype, tensor_shape
from isobit.pipeline.graph.ports import OUTPUT as PORT
from isobit.pipeline.graph.ports import input_nodes, output_names, output_nodes
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.samples.network_inputs import Inputs, grouped, in_floats, tensors
from isobit.pipeline.shapes import known_sizes
from isobit.pipeline.stages import Reference

OUTPUTS = "outputs"  # key of all outputs by name, where they are not one that is called `logits`


class SavedGraph:
    """The saved graph, run in float64."""

    def __init__(self, file: Path) -> None:
        self.graph = torch.export.load(file).module()

    def run(self, x: Inputs) -> Mapping[str, np.ndarray]:
        """Codes uint8 by quantizer name, and each float32 output by its name."""
        with torch.no_grad():
            results = self.graph(in_floats(x, torch.float64))
        outputs = results.pop(OUTPUTS) if OUTPUTS in results else {PORT: results.pop(PORT)}
        codes = {name: values.to(torch.uint8).numpy() for name, values in results.items()}
        return {**codes, **{name: value.float().numpy() for name, value in outputs.items()}}


class _WithCodes(torch.nn.Module):
    """The frozen graph, returning the codes of every quantized tensor beside the outputs: `logits`, or a dict."""

    def __init__(self, arithmetic: ExactArithmetic) -> None:
        super().__init__()
        graph = arithmetic.graph
        quantized = quantized_tensors(graph).activations()
        outputs = {tensor.name: tensor.node for tensor in quantized}
        returned = next(iter(reversed(graph.graph.nodes)))
        named = dict(zip(output_names(graph), output_nodes(graph), strict=True))
        self.returned = PORT if list(named) == [PORT] else OUTPUTS
        returned.args = ({**outputs, self.returned: named[PORT] if self.returned == PORT else named},)
        graph.recompile()
        # Not `graph`: an exported module has an attribute of that name already.
        self.frozen = graph
        self.quantizers = quantized.by_name()
        self.samples = {name: samples_of(node) for name, node in outputs.items()}

    def forward(self, x: Inputs) -> dict[str, Any]:
        results = self.frozen(*tensors(x))
        codes = {
            name: self.samples[name].gather(q.quantize(results[name]) - q.spec.grid.qmin)
            for name, q in self.quantizers.items()
        }
        return {**codes, self.returned: results[self.returned]}


def save_graph(reference: Reference, file: Path) -> None:
    """Write the graph as an exported program with a free batch."""
    nodes = input_nodes(reference.graph)
    x = [torch.zeros(2, *known_sizes(tensor_shape(node)[1:]), dtype=tensor_dtype(node)) for node in nodes]
    batch = {0: torch.export.Dim("batch", min=1)}
    shapes = batch if len(x) == 1 else (batch,) * len(x)
    module = _WithCodes(ExactArithmetic(reference)).eval()
    program = torch.export.export(module, (in_floats(grouped(x), torch.float64),), dynamic_shapes=(shapes,))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine, and numbers that another build counts on
    archive = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
    torch.export.save(program, archive)
    file.write_bytes(archive.getbuffer())
