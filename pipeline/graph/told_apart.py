"""Which values of a quantized tensor its readers tell apart: a grid need not reach beyond.

A hard-swish is 0 for all that is below -3, a gate 0 or 1 outside of its slope. Codes for such values would be lost to
those that matter: in PP-OCR's detector that is half of them.
"""

from __future__ import annotations

import math

from torch import fx

from isobit.pipeline.graph.nodes import op_name, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.quantizer import Quantizer

Ends = tuple[float, float]
EVERYTHING: Ends = (-math.inf, math.inf)


def ends_told_apart(graph: fx.GraphModule) -> dict[Quantizer, Ends]:
    """For each quantizer of an activation the ends beyond which no reader of its tensor gives anything else."""
    found: dict[Quantizer, Ends] = {}
    for tensor in quantized_tensors(graph).activations():
        ends = [_ends(graph, reader, tensor.node) for reader in tensor.node.users] or [EVERYTHING]
        if tensor.quantizer in found:  # one grid of several tensors
            ends.append(found[tensor.quantizer])
        found[tensor.quantizer] = (min(low for low, _ in ends), max(high for _, high in ends))
    return found


def _ends(graph: fx.GraphModule, reader: fx.Node, value: fx.Node) -> Ends:
    """The same for one operator that reads `value`."""
    if op_name(reader) in UNARY:
        return _function_ends(graph, reader)
    if op_name(reader) == "mul":
        gates = [_unquantized(graph, each) for each in reader.all_input_nodes if each is not value]
        if len(gates) == 1 and op_name(gates[0]) in UNARY and UNARY[op_name(gates[0])].is_gate:
            low, _ = _function_ends(graph, gates[0])
            # Where the gate is 0 so is the product; where it is 1 that is the value itself.
            return (low, math.inf) if value in gates[0].all_input_nodes else EVERYTHING
    return EVERYTHING


def _function_ends(graph: fx.GraphModule, call: fx.Node) -> Ends:
    coded = all(quantizer_of(graph, user) is not None for user in call.users)
    return UNARY[op_name(call)].ends_of(call, coded)


def _unquantized(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The value that a quantizer reads; `node` itself where it is none."""
    return node.all_input_nodes[0] if quantizer_of(graph, node) is not None else node
