"""The papers' target: no runtime limits, quantizers where the papers put them, the artifact is the graph itself.

The branch before a residual sum, the network input, pooled features, biases and logits stay in float. It runs nowhere
but in PyTorch; it exists to reproduce the papers' tables and as the smallest backend to copy.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import fx

from isobit.backends.base import BACKENDS
from isobit.backends.execution.exact import ExactArithmetic
from isobit.backends.rules import FUSED, IN_FLOAT, INTEGER, UNARY_RULE
from isobit.pipeline.artifact.manifest import PreprocessingEntry
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED
from isobit.pipeline.graph.nodes import tensor_dtype, tensor_shape
from isobit.pipeline.graph.ports import OUTPUT as PORT
from isobit.pipeline.graph.ports import input_nodes, output_names, output_nodes
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.proof.parity import Arithmetic, Runner
from isobit.pipeline.samples.network_inputs import Inputs, grouped, in_floats, tensors
from isobit.pipeline.shapes import known_sizes
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Note, OpRule, SumLimits, Target

# Layers as everywhere; whatever else a layer's sum meets is computed with the sum.
_WIDE = OpRule("accumulator", "own", absorbs=FUSED)
_MOVES = OpRule("accumulator", "as_input")
_OPS = {
    **{name: INTEGER[name] for name in sorted(WEIGHTED)},
    "add": _WIDE,
    "mul": OpRule("accumulator", "own"),
    # A gate of values 0 ... 1 scales what it multiplies and stays in float, as in the papers.
    **{name: OpRule("accumulator", "none") for name, row in UNARY.items() if row.fixed is not None},
    **dict.fromkeys(("cat", "max_pool2d", *sorted(POOLS)), _MOVES),
}
TARGET = Target(
    name="reference", profile="paper", ops=_OPS, tables=UNARY_RULE, moves=_MOVES,
    fills=OpRule("accumulator", "own"), in_float=IN_FLOAT, grids=None,
    quantized_bias=False, input_bits=None, sums=SumLimits(2**53), placements=("target", "paper"),
    gates=("the saved graph gives the codes of the frozen graph, both in float64",),
    notes=(Note("the artifact runs in PyTorch only: use it to reproduce a paper's number, not to deploy"),),
)


OUTPUTS = "outputs"  # key of all outputs by name, where they are not one that is called `logits`


class ReferenceSession:
    """The saved graph, run in float64."""

    def __init__(self, folder: Path) -> None:
        self.graph = torch.export.load(folder / ReferenceBackend.model_file).module()

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


class ReferenceBackend:
    """Saves the frozen graph with the codes of every quantized tensor as outputs beside the logits."""

    name = "reference"
    profiles = ("paper",)
    levels = ("float64",)
    gated_levels = ("float64",)
    model_file = "model.pt2"
    device_needs = "torch"
    packages = ("torch",)
    tools: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def target(self, profile: str) -> Target:
        return TARGET

    def check(self, profile: str) -> None:
        return

    def unsupported(self, graph: fx.GraphModule) -> Iterable[tuple[fx.Node, str]]:
        return ()

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
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
        (folder / self.model_file).write_bytes(archive.getbuffer())
        return [folder / self.model_file]

    def describe(self, folder: Path, preprocessing: PreprocessingEntry) -> None:
        return

    def arithmetic(self, reference: Reference) -> Arithmetic:
        return ExactArithmetic(reference)

    def open(self, folder: Path, level: str) -> Runner:
        return ReferenceSession(folder)

    def proof_samples(self, folder: Path) -> int | None:
        return None

    def finish(self, folder: Path) -> None:
        return

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        return {"integer": 0, "float": 0, "reasons": {"all": "the reference target simulates in float64"}}

    def sizes(self, folder: Path) -> Mapping[str, int]:
        return {"model": (folder / self.model_file).stat().st_size}

    def versions(self) -> Mapping[str, str]:
        return {"torch": torch.__version__}


BACKENDS.register(ReferenceBackend.name)(ReferenceBackend())
