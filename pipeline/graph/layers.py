"""Which layer is which: a layer is one call of a convolution or linear operator, whatever module it is written in.

Overrides, budgets, units, the manifest and every table name layers by `layer_name`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, is_constant, module_path, module_stack, op_name, tensor_shape

# Modules that are a layer themselves, however often they are called.
_LAYERS = ("torch.nn.modules.conv.", "torch.nn.modules.linear.")
# Operators, by the beginning of their names, that multiply what they read by weights or by one another.
_WITH_PRODUCTS = ("conv", "linear", "lstm", "gru", "rnn", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum",
                  "bilinear", "scaled_dot_product", "mv", "addmv", "dot", "vdot", "outer", "addr", "addbmm")
# Parameters that a pass made, whose names say nothing about the model.
_MADE = ("constants.", "folded.")


def weighted_layers(graph: fx.GraphModule) -> list[fx.Node]:
    """Every layer of `graph`, in execution order."""
    return [node for node in graph.graph.nodes if op_name(node) in WEIGHTED]


def layer_name(node: fx.Node) -> str:
    """Name of the layer that `node` is, or whose weight or bias it is; for any other node the path of its module.

    The path of its module, where that runs no other layer; else the name of its weight (`stem.weight` of `stem`, `w1`),
    or the path and the node's name where the weight is not the model's own. Calls that share a weight share the name.
    """
    layer = _layer_of(node)
    if layer is None:
        return module_path(node)
    path, weight = module_path(layer), _weight(layer)
    if path and (_is_layer_module(layer) or {_weight(other) for other in _inside(layer, path)} == {weight}):
        return path
    if weight.startswith(_MADE):
        return f"{path}.{layer.name}" if path else layer.name
    owner, _, attribute = weight.rpartition(".")
    return owner if owner and attribute == "weight" and owner != path else weight


def prepares_input(node: fx.Node, prepared: Collection[fx.Node], buffers: Collection[str]) -> bool:
    """The layer is part of how the network reads its input, not the first that has learned taps.

    Args:
        prepared: the layers before it of which this holds.
        buffers: names of the model's buffers: a weight among them is fixed (a colour conversion).

    A factor and a shift for each channel (a batch norm that nothing could take in) has no taps.
    """
    fixed = is_scaling(node) or _weight(node) in buffers
    return fixed and all(other in prepared for other in _layers_before(node))


def is_scaling(node: fx.Node) -> bool:
    """A convolution that is one factor and one shift for each channel: depthwise, 1x1, every pixel once."""
    if op_name(node) != "conv2d":
        return False
    args = bound_args(node)
    weight = tensor_shape(args["weight"])
    steps = [*_numbers(args["stride"]), *(1 + pad for pad in _numbers(args["padding"]))]
    return weight[1:] == (1, 1, 1) and args["groups"] == weight[0] and set(steps) == {1}


def last_layers(layers: Sequence[fx.Node]) -> list[fx.Node]:
    """The layers that no other lies after: the classifier, or every head of a network with several."""
    covered = {before for layer in layers for before in _layers_before(layer)}
    return [layer for layer in layers if layer not in covered]


def after_layers(graph: fx.GraphModule) -> set[fx.Node]:
    """The operators that no layer lies after and that are none themselves: a softmax, boxes decoded from offsets.

    Layers here are recurrent ones and products of two tensors as well.
    """
    found: set[fx.Node] = set()  # quantizers, too
    for node in reversed(graph.graph.nodes):
        ends = all(user in found or user.op == "output" for user in node.users)
        if ends and node.op != "output" and not multiplies(node):
            found.add(node)
    return {node for node in found if node.op == "call_function"}


def multiplies(node: fx.Node) -> bool:
    """Whether it multiplies what it reads by weights or by one another: a layer, recurrent or not, or a product."""
    return op_name(node).startswith(_WITH_PRODUCTS)


def _numbers(value: object) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value] if isinstance(value, int) else [0]


def _layers_before(layer: fx.Node) -> set[fx.Node]:
    """Every layer whose result the input of `layer` depends on."""
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    waiting = list(layer.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting.extend(node.all_input_nodes)
        if op_name(node) in WEIGHTED:
            found.add(node)
    return found


def _layer_of(node: fx.Node) -> fx.Node | None:
    """The layer itself, or the first that reads a constant."""
    while op_name(node) not in WEIGHTED:
        if not is_constant(node) or not node.users:
            return None
        node = next(iter(node.users))
    return node


def _inside(layer: fx.Node, path: str) -> list[fx.Node]:
    return [node for node in layer.graph.nodes
            if node.op == "call_function" and module_path(node) == path and op_name(node) in WEIGHTED]


def _is_layer_module(layer: fx.Node) -> bool:
    stack = module_stack(layer)
    return bool(stack) and stack[-1][1].startswith(_LAYERS)


def _weight(layer: fx.Node) -> str:
    """Name of the layer's weight."""
    weight = bound_args(layer)["weight"]
    while weight.op == "call_module":  # its quantizer
        weight = weight.args[0]
    return str(weight.target)
