"""Int32 biases: a `BiasQuantizer` that reads its scale from the quantizers of the layer's input and weight."""

from __future__ import annotations

from torch import fx

from pipeline.dialect import LAYOUT
from pipeline.graph import bias_quantizer_of, bound_args, finish, insert_module, op_name, quantizer_of, set_argument
from pipeline.quantizer import BiasQuantizer, Quantizer


def tie_biases(graph: fx.GraphModule) -> bool:
    """Insert in place behind every bias whose layer asks for it and whose input is on a grid."""
    changed = False
    for node in list(graph.graph.nodes):
        annotation = node.meta.get("quant")
        if annotation is None or not annotation.bias:
            continue
        args = bound_args(node)
        source, weight = _grid(graph, node.args[0]), quantizer_of(graph, args["weight"])
        if source is None or weight is None or bias_quantizer_of(graph, args["bias"]) is not None:
            continue
        target = f"quantizers.{node.name}_b"
        graph.add_submodule(target, BiasQuantizer(source, weight))
        set_argument(node, "bias", insert_module(graph, node, target, args["bias"], before=node))
        changed = True
    if changed:
        finish(graph)
    return changed


def _grid(graph: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    """The quantizer whose grid the value is on, looked up through layout operators and shared concatenations."""
    while op_name(node) in LAYOUT or op_name(node) == "cat":
        node = node.all_input_nodes[0]
    return quantizer_of(graph, node)
