"""Int32 biases: a `BiasQuantizer` that reads its scale from the quantizers of the layer's input and weight."""

from __future__ import annotations

from torch import fx

from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.nodes import finish, insert_module, set_argument
from isobit.pipeline.quant.quantizer import BiasQuantizer
from isobit.pipeline.target import Target


def tie_biases(graph: fx.GraphModule, target: Target) -> bool:
    """Insert in place after every bias whose layer asks for it and whose input is on a grid."""
    changed = False
    values = GridMap(target)
    for layer in list(Calls(graph)):
        annotation = annotation_of(layer.node)
        if annotation is None or not annotation.bias:
            continue
        bias = layer.args["bias"]
        source, weight = values.quantizer(layer.sources[0]), layer.args["weight"].quantizer
        if source is None or weight is None or bias.bias_quantizer is not None:
            continue
        path = f"quantizers.{layer.name}_b"
        graph.add_submodule(path, BiasQuantizer(source, weight))
        set_argument(layer.node, "bias", insert_module(graph, layer.node, path, bias.node, before=layer.node))
        changed = True
    if changed:
        finish(graph)
    return changed
