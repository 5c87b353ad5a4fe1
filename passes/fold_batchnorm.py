"""Fold batch norm into the convolution or linear layer before it.

    W' = W * gamma / sqrt(var + eps)        b' = (b - mean) * gamma / sqrt(var + eps) + beta

computed in float64. A batch norm that follows neither (pre-activation nets) becomes a 1x1 depthwise convolution with
the same numbers, which integer kernels can run.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from pipeline.graph import (
    bound_args,
    finish,
    get_attribute,
    insert_call,
    op_name,
    set_argument,
    set_attribute,
    tensor_shape,
)


def fold_batchnorm(graph: fx.GraphModule) -> bool:
    """Fold every batch norm in place; True where one was found."""
    norms = [node for node in graph.graph.nodes if op_name(node) == "batch_norm"]
    for node in norms:
        factor, shift = _affine(graph, node)
        source = node.args[0]
        if op_name(source) in ("conv2d", "linear") and len(source.users) == 1:
            _fold(graph, source, factor, shift)
            node.replace_all_uses_with(source)
        else:
            node.replace_all_uses_with(_depthwise(graph, node, factor, shift))
        graph.graph.erase_node(node)
    if norms:
        finish(graph)
    return bool(norms)


def _affine(graph: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Factor and shift per channel, float64 [C]."""
    args = bound_args(node)
    mean, var = (get_attribute(graph, args[key]).double() for key in ("running_mean", "running_var"))
    factor = 1.0 / torch.sqrt(var + args["eps"])
    if args["weight"] is not None:
        factor = factor * get_attribute(graph, args["weight"]).double()
    shift = -mean * factor
    if args["bias"] is not None:
        shift = shift + get_attribute(graph, args["bias"]).double()
    return factor, shift


def _fold(graph: fx.GraphModule, layer: fx.Node, factor: Tensor, shift: Tensor) -> None:
    args = bound_args(layer)
    weight = get_attribute(graph, args["weight"]).double()
    shape = (-1, *[1] * (weight.dim() - 1))
    bias = get_attribute(graph, args["bias"]).double() if args["bias"] is not None else torch.zeros_like(shift)
    target = str(args["weight"].target)
    owner = target.rpartition(".")[0]
    _replace(graph, layer, "weight", target, (weight * factor.reshape(shape)).float())
    _replace(graph, layer, "bias", f"{owner}.bias" if owner else "bias", (bias * factor + shift).float())


def _replace(graph: fx.GraphModule, layer: fx.Node, name: str, target: str, value: Tensor) -> None:
    """Give `layer` its own parameter: the old name where nobody else reads it, else one of its own (tied weights)."""
    old = bound_args(layer)[name]
    readers = [n for n in graph.graph.nodes if n.op == "get_attr" and n.target == target]
    others = [user for n in readers for user in n.users if user is not layer]
    if others:
        target = f"{target}_{layer.name}"
    set_attribute(graph, target, value)
    if old is None or others:
        with graph.graph.inserting_before(layer):
            node = graph.graph.create_node("get_attr", target)
        node.meta["shape"] = tuple(value.shape)
        set_argument(layer, name, node)


def _depthwise(graph: fx.GraphModule, node: fx.Node, factor: Tensor, shift: Tensor) -> fx.Node:
    channels, rank = factor.numel(), len(tensor_shape(node.args[0]))
    operator = torch.ops.aten.conv2d.default
    constants = []
    for name, value in (("weight", factor.float().reshape(channels, 1, 1, 1)), ("bias", shift.float())):
        target = f"{node.name}.{name}"
        set_attribute(graph, target, value)
        with graph.graph.inserting_before(node):
            constants.append(graph.graph.create_node("get_attr", target))
        constants[-1].meta["shape"] = tuple(value.shape)
    source = node.args[0]
    if rank == 2:
        source = insert_call(graph, node, torch.ops.aten.reshape.default, (source, [-1, channels, 1, 1]))
    result = insert_call(graph, node, operator, (source, *constants, [1, 1], [0, 0], [1, 1], channels))
    if rank == 2:
        result = insert_call(graph, node, torch.ops.aten.reshape.default, (result, [-1, channels]))
    return result
