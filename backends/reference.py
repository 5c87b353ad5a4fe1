"""The papers' target: no runtime limits, quantizers where the papers put them, the artifact is the graph itself.

The branch before a residual sum, the network input, pooled features, biases and logits stay in float. It runs nowhere
but in PyTorch; it exists to reproduce the papers' tables and as the smallest backend to copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from isobit.backends.base import BACKENDS, PlainBackend
from isobit.backends.execution.exact import ExactArithmetic
from isobit.backends.execution.saved_graph import SavedGraph, save_graph
from isobit.backends.rules import FUSED, IN_FLOAT, INTEGER, UNARY_RULE
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.proof.arithmetic import Arithmetic, Runner
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Note, OpRule, SumLimits, Target, WeightLimits

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
    quantized_bias=False, input_bits=None, weights=WeightLimits(packed=8), sums=SumLimits(2**53),
    placements=("target", "paper"),
    gates=("the saved graph gives the codes of the frozen graph, both in float64",),
    notes=(Note("the artifact runs in PyTorch only: use it to reproduce a paper's number, not to deploy"),),
)


class ReferenceBackend(PlainBackend):
    """Saves the frozen graph with the codes of every quantized tensor as outputs beside the logits."""

    name = "reference"
    profiles = ("paper",)
    levels = ("float64",)
    gated_levels = ("float64",)
    model_file = "model.pt2"
    device_needs = "torch"
    packages = ("torch",)

    def target(self, profile: str) -> Target:
        return TARGET

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        save_graph(reference, folder / self.model_file)
        return [folder / self.model_file]

    def arithmetic(self, reference: Reference) -> Arithmetic:
        return ExactArithmetic(reference)

    def open(self, folder: Path, level: str) -> Runner:
        return SavedGraph(folder / self.model_file)

    @property
    def no_runtime(self) -> str:
        return "it runs in PyTorch alone, to reproduce a paper: build for a target that is deployed"

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        return {"integer": 0, "float": 0, "reasons": {"all": "the reference target simulates in float64"}}

    def versions(self) -> Mapping[str, str]:
        return {"torch": torch.__version__}


BACKENDS.register(ReferenceBackend.name)(ReferenceBackend())
