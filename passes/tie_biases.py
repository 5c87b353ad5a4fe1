"""Int32 biases: a `BiasQuantizer` that reads its scale from the quantizers of the layer's input and weight."""

from __future__ import annotations

from torch import fx

from pipeline.dialect import source_quantizer
from pipeline.graph import bias_quantizer_of, bound_args, finish, insert_module, quantizer_of, set_argument
from pipeline.quantizer import BiasQuantizer


def tie_biases(graph: fx.GraphModule) -> bool:
    """Insert in place behind every bias whose layer asks for it and whose input is on a grid."""
    changed = False
    for node in list(graph.graph.nodes):
        annotation = node.meta.get("quant")
        if annotation is None or not annotation.bias:
            continue
        args = bound_args(node)
        source, weight = source_quantizer(graph, node.args[0]), quantizer_of(graph, args["weight"])
        if source is None or weight is None or bias_quantizer_of(graph, args["bias"]) is not None:
            continue
        target = f"quantizers.{node.name}_b"
        graph.add_submodule(target, BiasQuantizer(source, weight))
        set_argument(node, "bias", insert_module(graph, node, target, args["bias"], before=node))
        changed = True
    if changed:
        finish(graph)
    return changed
