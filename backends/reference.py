"""The papers' target: no runtime limits, quantizers where the papers put them, the artifact is the graph itself.

The branch before a residual sum, the network input, pooled features, biases and logits stay in float. It runs nowhere
but in PyTorch; it exists to reproduce the papers' tables and as the smallest backend to copy.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from backends.base import BACKENDS
from backends.exact import ExactArithmetic
from pipeline.dialect import LAYOUT
from pipeline.graph import is_constant, quantizer_of
from pipeline.parity import LOGITS, Arithmetic, Runner
from pipeline.samples import samples_of
from pipeline.stages import Reference
from pipeline.target import Note, OpRule, SumLimits, Target

_WIDE = OpRule("accumulator", "own", absorbs=("relu", "hardtanh"))
_OPS = {
    "conv2d": OpRule("quantized", "own", absorbs=("relu", "hardtanh")),
    "linear": OpRule("quantized", "own", absorbs=("relu", "hardtanh")),
    "add": _WIDE,
    "mul": OpRule("accumulator", "own"),
    "cat": OpRule("accumulator", "as_input"),
    "hardsigmoid": OpRule("accumulator", "none"),
    "sigmoid": OpRule("accumulator", "none"),
    "mean": OpRule("accumulator", "as_input"),
    "avg_pool2d": OpRule("accumulator", "as_input"),
    **dict.fromkeys(sorted(LAYOUT), OpRule("accumulator", "as_input")),
}
TARGET = Target(
    name="reference", profile="paper", ops=_OPS, quantized_bias=False, input_bits=None,
    sums=SumLimits(2**53), placements=("target", "paper"),
    gates=("the saved graph gives the codes of the frozen graph, both in float64",),
    notes=(Note("the artifact runs in PyTorch only: use it to reproduce a paper's number, not to deploy"),),
)


class ReferenceSession:
    """The saved graph, run in float64."""

    def __init__(self, folder: Path) -> None:
        self.graph = torch.export.load(folder / ReferenceBackend.model_file).module()

    def run(self, x: Tensor) -> Mapping[str, np.ndarray]:
        """Codes uint8 by quantizer name, and float32 logits."""
        with torch.no_grad():
            results = self.graph(x.double())
        logits = results.pop(LOGITS).float().numpy()
        return {**{name: codes.to(torch.uint8).numpy() for name, codes in results.items()}, LOGITS: logits}


class _WithCodes(torch.nn.Module):
    """The frozen graph, returning the codes of every quantized tensor beside the logits."""

    def __init__(self, arithmetic: ExactArithmetic) -> None:
        super().__init__()
        graph = arithmetic.graph
        outputs = {}
        for node in list(graph.graph.nodes):
            if quantizer_of(graph, node) is not None and not is_constant(node):
                outputs[node.name] = node
            if node.op == "output":
                outputs[LOGITS] = node.args[0]
                node.args = (outputs,)
        graph.recompile()
        # Not `graph`: an exported module has an attribute of that name already.
        self.frozen = graph
        self.quantizers = {name: quantizer_of(graph, node) for name, node in outputs.items() if name != LOGITS}
        self.samples = {name: samples_of(outputs[name]) for name in self.quantizers}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        results = self.frozen(x)
        codes = {
            name: self.samples[name].gather(q.quantize(results[name]) - q.spec.grid.qmin)
            for name, q in self.quantizers.items()
        }
        return {**codes, LOGITS: results[LOGITS]}


class ReferenceBackend:
    """Saves the frozen graph with the codes of every quantized tensor as outputs beside the logits."""

    name = "reference"
    profiles = ("paper",)
    levels = ("float64",)
    gated_levels = ("float64",)
    model_file = "model.pt2"
    device_needs = "torch"

    def target(self, profile: str) -> Target:
        return TARGET

    def unsupported(self, graph: fx.GraphModule) -> Iterable[tuple[fx.Node, str]]:
        return ()

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        shape = reference.quantized.captured.input_shape
        batch = {0: torch.export.Dim("batch", min=1)}
        module = _WithCodes(ExactArithmetic(reference)).eval()
        program = torch.export.export(module, (torch.zeros(2, *shape, dtype=torch.float64),), dynamic_shapes=(batch,))
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # paths of this machine, and numbers that another build counts on
        archive = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
        torch.export.save(program, archive)
        (folder / self.model_file).write_bytes(archive.getbuffer())
        return [folder / self.model_file]

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
