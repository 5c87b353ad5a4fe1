"""Put the `Quantizer` nodes that `annotate` asked for into the graph: after values, on weights, on biases.

Node names tell what they quantize and travel to every artifact: `<node>_q` an activation, `<layer>_w` a weight. An
input or output of the network that is called so keeps its name: the quantizer's is longer by `_`.
"""

from __future__ import annotations

import torch
from torch import fx

from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.nodes import bound_args, finish, insert_module, quantizer_of, set_argument
from isobit.pipeline.graph.ports import input_names, output_names, unlike
from isobit.pipeline.quant.grid import QParams, QuantSpec
from isobit.pipeline.quant.quantizer import Quantizer

FOLDER = "quantizers"


def insert_quantizers(graph: fx.GraphModule) -> bool:
    """Insert in place, every quantizer OFF; True where one was missing."""
    changed = False
    taken = {*input_names(graph), *output_names(graph), *(node.name for node in graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        annotation = annotation_of(node)
        if annotation is None:
            continue
        if annotation.weight is not None and bound_args(node)["weight"].op == "get_attr":
            weight = bound_args(node)["weight"]
            target = _module(graph, f"{node.name}_w", annotation.weight)
            set_argument(node, "weight", insert_module(graph, node, target, weight, before=node))
            changed = True
        if annotation.output is not None and not any(quantizer_of(graph, user) for user in node.users):
            readers = set(node.users)
            target = _module(graph, unlike(f"{node.name}_q", taken), annotation.output, annotation.fixed)
            new = insert_module(graph, node, target, node)
            node.replace_all_uses_with(new, delete_user_cb=lambda user, readers=readers: user in readers)
            changed = True
    if changed:
        finish(graph)
    return changed


def _module(graph: fx.GraphModule, name: str, spec: QuantSpec, fixed: tuple[float, int] | None = None) -> str:
    """Register a new quantizer; a grid that the target fixes has its numbers from the start."""
    quantizer = Quantizer(spec)
    if fixed is not None:
        quantizer.set_params(QParams(torch.tensor(fixed[0]), torch.tensor(fixed[1], dtype=torch.int32)))
        quantizer.fixed = True
    graph.add_submodule(f"{FOLDER}.{name}", quantizer)
    return f"{FOLDER}.{name}"
