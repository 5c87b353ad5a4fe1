"""Layer-wise units for methods that are not block-wise: each layer with weights, and the activation after it.

A view of the graph's units, which stay as they are: sums, pools and what else stands between layers belongs to none
and is carried along (AdaRound: "no residual inside a unit").
"""

from __future__ import annotations

from torch import fx

from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.stages import Unit


def layers(graph: fx.GraphModule) -> tuple[Unit, ...]:
    """One unit a layer, in execution order: its constants, itself, its activation, the quantizers on that path."""
    found = Layers(Calls(graph))
    units: list[Unit] = []
    for layer in found:
        calls = [*_constants(layer), layer, *_after(layer)]
        units.append(Unit(found.name(layer), "layer", "layer by layer", tuple(call.name for call in calls)))
    return tuple(units)


def _constants(layer: Call) -> list[Call]:
    """Quantizers of the layer's weight and bias."""
    return [source for source in layer.sources if source.constant and source.sources]


def _after(layer: Call) -> list[Call]:
    """Quantizer and activation right after the layer, as far as each is the only reader of the one before."""
    found: list[Call] = []
    call = layer
    while len(call.readers) == 1:
        call = call.readers[0]
        if call.quantizer is None and call.op not in ACTIVATIONS:
            break
        found.append(call)
    return found
