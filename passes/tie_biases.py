"""Int32 biases: a `BiasQuantizer` that reads its scale from the quantizers of the layer's input and weight."""

from __future__ import annotations

from torch import fx

from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    bound_args,
    finish,
    insert_module,
    quantizer_of,
    set_argument,
    source_of,
)
from isobit.pipeline.quant.quantizer import BiasQuantizer
from isobit.pipeline.target import Target


def tie_biases(graph: fx.GraphModule, target: Target) -> bool:
    """Insert in place after every bias whose layer asks for it and whose input is on a grid."""
    changed = False
    values = GridMap(graph, target)
    for node in list(graph.graph.nodes):
        annotation = annotation_of(node)
        if annotation is None or not annotation.bias:
            continue
        args = bound_args(node)
        source, weight = values.quantizer(source_of(node)), quantizer_of(graph, args["weight"])
        if source is None or weight is None or bias_quantizer_of(graph, args["bias"]) is not None:
            continue
        path = f"quantizers.{node.name}_b"
        graph.add_submodule(path, BiasQuantizer(source, weight))
        set_argument(node, "bias", insert_module(graph, node, path, args["bias"], before=node))
        changed = True
    if changed:
        finish(graph)
    return changed
