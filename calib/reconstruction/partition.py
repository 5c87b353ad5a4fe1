"""Layer-wise units for methods that are not block-wise: each layer with weights, and the activation after it.

A view of the graph's units, which stay as they are: sums, pools and what else stands between layers belongs to none
and is carried along (AdaRound: "no residual inside a unit").
"""

from __future__ import annotations

from torch import fx

from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.layers import layer_name, weighted_layers
from isobit.pipeline.graph.nodes import is_constant, op_name
from isobit.pipeline.stages import Unit


def layers(graph: fx.GraphModule) -> tuple[Unit, ...]:
    """One unit a layer, in execution order: its constants, itself, its activation, the quantizers on that path."""
    units: list[Unit] = []
    for node in weighted_layers(graph):
        nodes = [*_constants(node), node, *_after(node)]
        units.append(Unit(layer_name(node), "layer", "layer by layer", tuple(n.name for n in nodes)))
    return tuple(units)


def _constants(layer: fx.Node) -> list[fx.Node]:
    """Quantizers of the layer's weight and bias."""
    return [source for source in layer.all_input_nodes if source.op == "call_module" and is_constant(source)]


def _after(layer: fx.Node) -> list[fx.Node]:
    """Quantizer and activation right after the layer, as far as each is the only reader of the one before."""
    found: list[fx.Node] = []
    node = layer
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_module" and op_name(node) not in ACTIVATIONS:
            break
        found.append(node)
    return found
