"""Fold constant factors and shifts per channel into the layer before or after them, in float64.

    y = layer(x);  y * g, y / g, y + b, y - b, b - y, -y ->  layer with W' = W * g, bias' = bias * g + b
    layer(x * g), layer(x / g)                           ->  layer with W' = W * g over its input channels
    layer(x + b), layer(x - b), layer(b - x)             ->  the same, bias' = bias + W b, where it pads nothing

so a norm written by hand, a frozen batch norm, a layer scale, an input in 0 ... 255 and a bias that is added cost
nothing. A shift before a layer that pads with zeros stays: a border of zeros is one of -b/g before it. So of an input
normalised by (x - mean) / std in the network the deviation goes, and the mean where the first layer pads nothing.

Where something else reads the layer, or another operator of the integer set stands before it, factors and shifts become
a 1x1 depthwise convolution, as a batch norm does, if a layer follows.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from isobit.passes.fold_batchnorm import depthwise, fold_before, fold_into
from isobit.pipeline.graph.dialect import ACTIVATIONS, COMPUTE, WEIGHTED
from isobit.pipeline.graph.nodes import (
    bound_args,
    finish,
    get_attribute,
    is_constant,
    op_name,
    overload_of,
    source_of,
    tensor_shape,
)
from isobit.pipeline.graph.norms import FoldedNorm

aten = torch.ops.aten
# Layers whose weight [K, ...] has the output's channels first, by the output's axis of channels.
LAYERS = {aten.conv1d.default: 1, aten.conv2d.default: 1, aten.conv3d.default: 1, aten.linear.default: -1}
# What may stand before a factor that becomes a layer of its own: values that integer kernels have at hand.
BEFORE_FACTORS = COMPUTE | ACTIVATIONS | {"max_pool2d"}


def fold_affine(graph: fx.GraphModule) -> bool:
    """Fold in place; True where anything was found."""
    changed = False
    for node in reversed(list(graph.graph.nodes)):
        found = affine_of(graph, node)
        if found is not None and not _after_layer(graph, node):
            changed |= _before_layers(graph, node, *found)
    for node in list(graph.graph.nodes):
        found = affine_of(graph, node)
        if found is None:
            continue
        source, factor, shift = found
        layer = _layer(source)
        axis = LAYERS[overload_of(source)] if layer else 1
        numbers = _per_channel(source, axis, factor, shift)
        if numbers is None or not all(bool(torch.isfinite(value).all()) for value in numbers):
            continue
        if layer:
            fold_into(graph, source, *numbers)
            _follow_norm(source, *numbers)
            node.replace_all_uses_with(source)
        elif op_name(source) in BEFORE_FACTORS and len(tensor_shape(source)) in (2, 4) and _feeds_a_layer(node):
            made = depthwise(graph, node, source, *numbers)
            made.meta["shape"] = tensor_shape(node)
            node.replace_all_uses_with(made)
        else:
            continue
        graph.graph.erase_node(node)
        changed = True
    if changed:
        finish(graph)
    return changed


def _after_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """What the factor and those before it scale is a layer that takes them up."""
    while (found := affine_of(graph, node)) is not None and len(found[0].users) == 1:
        node = found[0]
    return _layer(node)


def _before_layers(graph: fx.GraphModule, node: fx.Node, source: fx.Node, factor: Tensor, shift: Tensor) -> bool:
    """Fold into the layers that read `node`, if nothing else does; False where that changes what they compute."""
    readers = list(node.users)
    if not readers or tensor_shape(source) != tensor_shape(node) or not all(map(_constants, readers)):
        return False
    found = []
    for layer in readers:
        numbers = _per_channel(source, LAYERS[overload_of(layer)], factor, shift)
        if layer.args[0] is not node or numbers is None or not all(bool(v.isfinite().all()) for v in numbers):
            return False
        if bool(numbers[1].any()) and _pads(layer):
            return False
        found.append((layer, numbers))
    for layer, numbers in found:
        fold_before(graph, layer, source, *numbers)
    graph.graph.erase_node(node)
    return True


def _pads(layer: fx.Node) -> bool:
    padding = bound_args(layer).get("padding", 0)
    return any(padding) if isinstance(padding, list | tuple) else padding != 0


def _layer(source: fx.Node) -> bool:
    """A layer of constants that nothing but the factor reads."""
    return _constants(source) and len(source.users) == 1


def _constants(node: fx.Node) -> bool:
    """A layer whose weight and bias are constants."""
    if node.op != "call_function" or node.target not in LAYERS:
        return False
    args = bound_args(node)
    return is_constant(args["weight"]) and (args["bias"] is None or is_constant(args["bias"]))


def _feeds_a_layer(node: fx.Node) -> bool:
    """Some layer computes with it; what only decodes the network's results keeps the precision that it has."""
    seen, waiting = {node}, [node]
    while waiting:
        found = [user for user in waiting.pop().users if user not in seen]
        if any(op_name(user) in WEIGHTED for user in found):
            return True
        seen.update(found)
        waiting.extend(found)
    return False


Affine = tuple[fx.Node, Tensor, Tensor]


def affine_of(graph: fx.GraphModule, node: fx.Node) -> Affine | None:
    """(x, factor, shift) where the value of `node` is factor * x + shift, both float64 and as the model states them."""
    packet = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    if node.op != "call_function" or packet not in ("mul", "div", "add", "sub", "rsub", "neg"):
        return None
    one, none = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if packet == "neg":
        return source_of(node), -one, none
    args = bound_args(node)
    left, right = args["self"], args["other"]
    if packet == "rsub":
        left, right = right, left
    a, b = (_number(graph, value) for value in (left, right))
    if args.get("rounding_mode") is not None:
        return None
    if a is None and b is not None:
        x, number = left, b
    elif a is not None and b is None:
        x, number = right, a
    else:
        return None
    if packet == "mul":
        return x, number, none
    if packet == "div":
        return (x, 1.0 / number, none) if a is None else None
    sign = -1.0 if packet in ("sub", "rsub") else 1.0
    alpha = float(args.get("alpha", 1)) * sign
    return (x, one, number * alpha) if a is None else (x, one * alpha, number)


def _number(graph: fx.GraphModule, value: object) -> Tensor | None:
    """The constant of an operand, float64; None where it depends on the input."""
    if isinstance(value, fx.Node):
        constant = value.op == "get_attr" and get_attribute(graph, value).is_floating_point()
        return get_attribute(graph, value).detach().double() if constant else None
    return torch.tensor(float(value), dtype=torch.float64) if isinstance(value, int | float) else None


def _per_channel(source: fx.Node, axis: int, *values: Tensor) -> tuple[Tensor, ...] | None:
    """Each value as [channels] of axis `axis` of `source`; None where one varies along another axis, or widens it."""
    shape = tensor_shape(source)
    if not shape or (channels := shape[axis]) is None:
        return None
    found = []
    for value in values:
        if value.dim() > len(shape):
            return None
        wide = value.reshape((1,) * (len(shape) - value.dim()) + tuple(value.shape))
        if wide.numel() not in (1, channels) or wide.numel() != wide.shape[axis]:
            return None
        found.append(wide.reshape(-1).expand(channels))
    return tuple(found)


def _follow_norm(layer: fx.Node, factor: Tensor, shift: Tensor) -> None:
    """A batch norm that was folded into the layer before is a part of what it computes now."""
    norm: FoldedNorm | None = layer.meta.get("batch_norm")
    if norm is not None:
        layer.meta["batch_norm"] = FoldedNorm(
            (norm.factor.double() * factor).float(), (norm.beta.double() * factor + shift).float(), norm.mean,
            norm.variance, norm.eps,
        )
