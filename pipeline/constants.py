"""A graph with its constants worked out once, for walking over many samples: no weight is dequantized twice."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from pipeline.graph import bias_quantizer_of, get_attribute, quantizer_of


class Constant(nn.Module):
    """Answers with one tensor, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value


@torch.no_grad()
def fold_constants(graph: fx.GraphModule, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
    """A copy in `dtype` with the same answers, in which quantizers of weights and biases compute nothing any more.

    Args:
        graph: every constant's numbers are decided.
    """
    folded = copy.deepcopy(graph).to(dtype)
    values = {
        node: get_attribute(folded, node).detach() for node in folded.graph.nodes if node.op == "get_attr"
    }
    constants: dict[str, Constant] = {}
    for node in folded.graph.nodes:
        quantizer = quantizer_of(folded, node) or bias_quantizer_of(folded, node)
        if quantizer is None or node.args[0] not in values:
            continue
        constants[str(node.target)] = Constant(quantizer(values[node.args[0]]))
    for target, constant in constants.items():  # a bias quantizer reads its parents: they go last
        folded.set_submodule(target, constant)
    return folded
