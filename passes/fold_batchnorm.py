"""Fold batch norm into the convolution or linear layer before it.

    W' = W * gamma / sqrt(var + eps)        b' = (b - mean) * gamma / sqrt(var + eps) + beta

computed in float64. A batch norm that follows neither (pre-activation nets) becomes a 1x1 depthwise convolution with
the same numbers, which integer kernels can run; inputs of another rank are seen as [N, C, size, 1] for it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.dialect import WEIGHTED, over_features
from isobit.pipeline.graph.nodes import (
    bound_args,
    finish,
    get_attribute,
    insert_call,
    op_name,
    set_argument,
    set_attribute,
    source_of,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.norms import FoldedNorm
from isobit.pipeline.shapes import known_sizes

aten = torch.ops.aten


def fold_batchnorm(graph: fx.GraphModule) -> bool:
    """Fold every batch norm in place; True where one was found.

    Raises:
        CaptureError: a batch norm uses the statistics of the batch (exported in training mode, or made without
            running statistics).
    """
    norms = [node for node in graph.graph.nodes if op_name(node) == "batch_norm"]
    for node in norms:
        factor, shift = _affine(graph, node)
        norm = _statistics(graph, node, factor, shift)
        source = source_of(node)
        # A batch norm counts axis 1; a layer over features of more axes than two has its channels on the last.
        alike = not over_features(op_name(source)) or len(tensor_shape(source)) == 2
        if op_name(source) in WEIGHTED and alike and len(source.users) == 1:
            fold_into(graph, source, factor, shift)
            source.meta["batch_norm"] = norm
            node.replace_all_uses_with(source)
        else:
            layer = depthwise(graph, node, source, factor, shift)
            layer.meta["batch_norm"] = norm
            node.replace_all_uses_with(layer)
        graph.graph.erase_node(node)
    if norms:
        finish(graph)
    return bool(norms)


def _affine(graph: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Factor and shift per channel, float64 [C]."""
    args = bound_args(node)
    if args["training"] or args["running_mean"] is None:
        raise CaptureError(
            "a batch norm uses the statistics of its batch", where=where(node),
            allowed="batch norm with running statistics, in eval mode", hint="call model.eval() before the export",
        )
    mean, var = (get_attribute(graph, args[key]).double() for key in ("running_mean", "running_var"))
    factor = 1.0 / torch.sqrt(var + args["eps"])
    if args["weight"] is not None:
        factor = factor * get_attribute(graph, args["weight"]).double()
    shift = -mean * factor
    if args["bias"] is not None:
        shift = shift + get_attribute(graph, args["bias"]).double()
    return factor, shift


def _statistics(graph: fx.GraphModule, node: fx.Node, factor: Tensor, shift: Tensor) -> FoldedNorm:
    """What the batch norm knew about its input, kept for methods that align statistics."""
    args = bound_args(node)
    mean, variance = (get_attribute(graph, args[key]).double() for key in ("running_mean", "running_var"))
    return FoldedNorm(factor.float(), (shift + mean * factor).float(), mean.float(), variance.float(), args["eps"])


def fold_into(graph: fx.GraphModule, layer: fx.Node, factor: Tensor, shift: Tensor) -> None:
    """Make `layer` compute factor * y + shift, float64 [K], of what it computes now."""
    args = bound_args(layer)
    weight = get_attribute(graph, args["weight"]).double()
    shape = (-1, *[1] * (weight.dim() - 1))
    bias = get_attribute(graph, args["bias"]).double() if args["bias"] is not None else torch.zeros_like(shift)
    name = _bias_name(args)
    _replace(graph, layer, "weight", str(args["weight"].target), (weight * factor.reshape(shape)).float())
    _replace(graph, layer, "bias", name, (bias * factor + shift).float())


def fold_before(graph: fx.GraphModule, layer: fx.Node, source: fx.Node, factor: Tensor, shift: Tensor) -> None:
    """Make `layer` read `source` and compute what it computes now of factor * source + shift, float64 [C].

    Where it pads with zeros, `shift` is to be zero: a border of zeros before the shift is none after it.
    """
    args = bound_args(layer)
    weight = get_attribute(graph, args["weight"]).double()
    outputs, inputs = weight.shape[:2]
    groups = args.get("groups", 1)
    scales, shifts = (
        value.reshape(groups, inputs).repeat_interleave(outputs // groups, 0).reshape(
            outputs, inputs, *[1] * (weight.dim() - 2))
        for value in (factor, shift)
    )
    if bool(shift.any()):
        bias = get_attribute(graph, args["bias"]).double() if args["bias"] is not None else 0.0
        _replace(graph, layer, "bias", _bias_name(args), (bias + (weight * shifts).flatten(1).sum(1)).float())
    _replace(graph, layer, "weight", str(args["weight"].target), (weight * scales).float())
    set_argument(layer, "input", source)


def _bias_name(args: dict[str, Any]) -> str:
    """The parameter that holds a layer's bias, or would."""
    if args["bias"] is not None:
        return str(args["bias"].target)
    target = str(args["weight"].target)
    owner = target.rpartition(".")[0]
    return f"{owner}.bias" if owner else f"{target}_bias"


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


def depthwise(graph: fx.GraphModule, node: fx.Node, source: fx.Node, factor: Tensor, shift: Tensor) -> fx.Node:
    """factor * x + shift, per channel [C], of `source` as a convolution in the place and shape of `node`."""
    channels, shape = factor.numel(), tensor_shape(node)
    constants = []
    for name, value in (("weight", factor.float().reshape(channels, 1, 1, 1)), ("bias", shift.float())):
        # A folder of its own: a model may well have a module that is called like the node.
        target = f"folded.{node.name}.{name}"
        set_attribute(graph, target, value)
        with graph.graph.inserting_before(node):
            constants.append(graph.graph.create_node("get_attr", target))
        constants[-1].meta["shape"] = tuple(value.shape)
    if len(shape) != 4:
        source = _reshape(graph, node, source, [-1, channels, math.prod(known_sizes(shape[2:])), 1])
    result = insert_call(graph, node, aten.conv2d.default, (source, *constants, [1, 1], [0, 0], [1, 1], channels))
    if len(shape) != 4:
        result = _reshape(graph, node, result, [-1, *known_sizes(shape[1:])])
    return result


def _reshape(graph: fx.GraphModule, origin: fx.Node, source: fx.Node, sizes: list[int]) -> fx.Node:
    node = insert_call(graph, origin, aten.reshape.default, (source, sizes))
    node.meta["shape"] = (None, *sizes[1:])
    return node
