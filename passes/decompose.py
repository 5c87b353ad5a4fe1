"""Operators that integer runtimes lack, said with operators that they have; exact in real numbers.

    hardswish(x)                  = x * hardsigmoid(x)
    silu(x)                       = x * sigmoid(x)
    log(x), sqrt(x), ...          = of threshold(x, least, least): no argument outside of their domain
    adaptive_avg_pool2d(x, 1)     = mean over space;  to another size that divides: avg_pool2d
    avg_pool2d with a divisor     = avg_pool2d of all padding, times its window's size over the divisor
    avg_pool2d with one output    = slice to the window, mean over space
    max_pool2d(pad(x, -inf))      = max_pool2d with padding, slice; -inf or what no value of x is below
    scaled_dot_product_attention  = matmul, mul, add of a mask that is constant, softmax, matmul
    mean(x, [2, 3])               = mean with keepdim, reshape;  mean(x, [-1, -2], keepdim) = mean(x, [2, 3], keepdim)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.dialect import POOLS, keeps_codes
from isobit.pipeline.graph.nodes import (
    bound_args,
    finish,
    get_attribute,
    insert_call,
    insert_constant,
    op_name,
    pair,
    source_of,
    tensor_shape,
    where,
)
from isobit.pipeline.operators.moves import is_move
from isobit.pipeline.operators.unary import UNARY, gives_no_negatives, operand
from isobit.pipeline.shapes import known_sizes

aten = torch.ops.aten
# A border as low as this before a max pool is lower than any value by intention.
STANDS_FOR_INFINITY = -1000.0
GATES = {"hardswish": aten.hardsigmoid.default, "silu": aten.sigmoid.default}


def decompose(graph: fx.GraphModule) -> bool:
    """Rewrite in place; True where anything changed.

    Raises:
        CaptureError: a border of infinities, or of a number that stands for -inf, that no max pool takes up.
    """
    changed = False
    for node in list(graph.graph.nodes):
        name = op_name(node)
        new = None
        if name in GATES:
            new = _gated(graph, node, GATES[name])
        elif name in UNARY:
            changed |= _kept_in_domain(graph, node)
        elif name == "adaptive_avg_pool2d":
            new = _adaptive(graph, node)
        elif name == "max_pool2d":
            new = _pool_over_border(graph, node)
        elif name == "avg_pool2d":
            new = _divided(graph, node) or _single_window(graph, node)
        elif name in ("mean", "mean_over_dims"):
            new = _mean(graph, node)
        elif name == "scaled_dot_product_attention":
            new = _attention(graph, node)
        if new is not None:
            new.meta["shape"] = tensor_shape(node)
            node.replace_all_uses_with(new)
            graph.graph.erase_node(node)
            changed = True
    if changed:
        finish(graph)
    for node in graph.graph.nodes:
        if op_name(node) == "pad_with_value":
            _check_border(node)
    return changed


def _check_border(node: fx.Node) -> None:
    """Refuse a border that no grid can hold beside the values: infinities, and a number that stands for -inf."""
    value = bound_args(node)["value"]
    if math.isinf(value):
        raise CaptureError(
            "a border of infinities", where=where(node),
            allowed="before a max pool of which no window lies in the border alone",
            hint="pad with a finite value, or by at most half of the pool's kernel",
        )
    if value <= STANDS_FOR_INFINITY and _only_pooled(node):
        raise CaptureError(
            f"a border of {value:g} before a max pool: beside it a grid of 8 bits has no room for the values",
            where=where(node), allowed="-inf, which the pool's own padding says, or a border near the values",
            hint='pad with float("-inf") by at most half of the pool\'s kernel, or give the pool the padding',
        )


def _only_pooled(node: fx.Node) -> bool:
    """Whether nothing but the largest of its windows is taken from the value, moved or not."""
    return bool(node.users) and all(
        op_name(user) == "max_pool2d" or (is_move(op_name(user)) and _only_pooled(user)) for user in node.users)


def _gated(graph: fx.GraphModule, node: fx.Node, gate: object) -> fx.Node:
    opened = insert_call(graph, node, gate, (node.args[0],))
    return insert_call(graph, node, aten.mul.Tensor, (node.args[0], opened))


def _kept_in_domain(graph: fx.GraphModule, node: fx.Node) -> bool:
    """What a calibrated grid rounds to a code below the domain, or an image brings there, counts as its least value."""
    least, source = UNARY[op_name(node)].least_of(node), operand(node)
    if least is None or (op_name(source) == "threshold" and source.args[1] == source.args[2] == least):
        return False
    kept = insert_call(graph, node, aten.threshold.default, (source, least, least))
    kept.meta["shape"] = tensor_shape(source)
    node.replace_input_with(source, kept)
    return True


def _global_average(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> fx.Node:
    return insert_call(graph, node, aten.mean.dim, (source, [2, 3], True))


def _adaptive(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    have = tensor_shape(source_of(node))[2:]
    size = [h if w is None else w for h, w in zip(have, bound_args(node)["output_size"], strict=True)]
    if tuple(size) == (1, 1):
        return _global_average(graph, node, source_of(node))
    if tuple(size) == have:
        return source_of(node)
    sizes = list(zip(known_sizes(have), known_sizes(size), strict=True))
    if any(h % w for h, w in sizes):
        return None
    window = [h // w for h, w in sizes]
    return insert_call(graph, node, aten.avg_pool2d.default, (node.args[0], window, window))


def _divided(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A window that ceil_mode cuts off is divided by what is left of it, so zeros take the place of the rest."""
    args = bound_args(node)
    divisor = args["divisor_override"]
    if divisor is None:
        return None
    window, padding = pair(args["kernel_size"]), pair(args["padding"])
    stride, source = pair(args["stride"] or args["kernel_size"]), source_of(node)
    sizes = zip(known_sizes(tensor_shape(source)[2:]), known_sizes(tensor_shape(node)[2:]), strict=True)
    ends = [
        max((outputs - 1) * stride[axis] + window[axis] - size - padding[axis], 0)
        for axis, (size, outputs) in enumerate(sizes)
    ]
    border = [padding[1], ends[1], padding[0], ends[0]]
    if any(border):
        source = insert_call(graph, node, aten.pad.default, (source, border, "constant", 0.0))
        top, left, shape = padding[0], padding[1], tensor_shape(source_of(node))
        heights = [size + before + after for size, before, after in zip(
            known_sizes(shape[2:]), (top, left), ends, strict=True)]
        source.meta["shape"] = (*shape[:2], *heights)
    pooled = insert_call(graph, node, aten.avg_pool2d.default, (source, list(window), list(stride)))
    pooled.meta["shape"] = tensor_shape(node)
    return insert_call(graph, node, aten.mul.Tensor, (pooled, math.prod(window) / divisor))


def _attention(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """None where the mask is computed, heads are shared, or something is dropped."""
    args = bound_args(node)
    query, key, value = args["query"], args["key"], args["value"]
    rank, mask = len(tensor_shape(query)), args["attn_mask"]
    if args["dropout_p"] or args.get("enable_gqa") or not (mask is None or mask.op == "get_attr"):
        return None
    turned = insert_call(graph, node, aten.permute.default, (key, [*range(rank - 2), rank - 1, rank - 2]))
    turned.meta["shape"] = (*tensor_shape(key)[:-2], *tensor_shape(key)[:-3:-1])
    scores = insert_call(graph, node, aten.matmul.default, (query, turned))
    shape = scores.meta["shape"] = (*tensor_shape(query)[:-1], tensor_shape(key)[-2])
    scale = args["scale"] if args["scale"] is not None else known_sizes(tensor_shape(query)[-1:])[0] ** -0.5
    steps = [(aten.mul.Tensor, scale)]
    if mask is not None or args["is_causal"]:
        allowed = torch.ones(known_sizes(shape[-2:]), dtype=torch.bool).tril()
        numbers = allowed if mask is None else get_attribute(graph, mask).detach()
        if numbers.dtype is torch.bool:
            numbers = torch.zeros(numbers.shape).masked_fill(~numbers, -math.inf)
        steps.append((aten.add.Tensor, insert_constant(graph, node, f"{node.name}_mask", numbers)))
    for target, operand_of in steps:
        scores = insert_call(graph, node, target, (scores, operand_of))
        scores.meta["shape"] = shape
    shares = insert_call(graph, node, aten.softmax.int, (scores, rank - 1))
    shares.meta["shape"] = shape
    return insert_call(graph, node, aten.matmul.default, (shares, value))


def _single_window(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    if tensor_shape(node)[2:] != (1, 1) or any(args["padding"]) or args["divisor_override"] is not None:
        return None
    source = source_of(node)
    window = list(args["kernel_size"]) * (2 // len(args["kernel_size"]))
    for axis, (size, have) in enumerate(zip(window, tensor_shape(source)[2:], strict=True), start=2):
        if size > have:
            return None
        if size < have:
            shape = list(tensor_shape(source))
            shape[axis] = size
            source = insert_call(graph, node, aten.slice.Tensor, (source, axis, 0, size, 1))
            source.meta["shape"] = tuple(shape)
    return _global_average(graph, node, source)


def _mean(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = bound_args(node)
    source = source_of(node)
    rank = len(tensor_shape(source))
    if rank != 4 or sorted(dim % rank for dim in args.get("dim") or ()) != [2, 3] or args["dtype"] is not None:
        return None
    if args["keepdim"]:
        return None if list(args["dim"]) == [2, 3] else _global_average(graph, node, source)
    channels = tensor_shape(source)[1]
    return insert_call(graph, node, aten.reshape.default, (_global_average(graph, node, source), [-1, channels]))


def _pool_over_border(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A max pool's own padding is lower than every value, and even; slices take what uneven borders leave of it."""
    border = source_of(node)
    if op_name(border) != "pad_with_value" or len(border.users) != 1 or not _below_all(border):
        return None
    args, pads = bound_args(node), bound_args(border)["pad"]
    if len(pads) != 4 or min(pads) < 0:
        return None
    shape, wanted = tensor_shape(source_of(border)), known_sizes(tensor_shape(node)[2:])
    window, stride, own, dilation = map(
        pair, (args["kernel_size"], args["stride"] or args["kernel_size"], args["padding"], args["dilation"])
    )
    before = (own[0] + pads[2], own[1] + pads[0])
    axes = [_Axis(*axis) for axis in zip(shape[2:], window, stride, dilation, before, wanted, strict=True)]
    for ceil in (False, True):
        skipped = [skip for axis in axes if (skip := axis.skipped(ceil)) is not None]
        if len(skipped) == len(axes):
            break
    else:
        return None
    padding = [axis.before + skip * axis.stride for axis, skip in zip(axes, skipped, strict=True)]
    value = insert_call(
        graph, node, aten.max_pool2d.default, (source_of(border), window, stride, padding, dilation, ceil)
    )
    found = [*shape[:2], *(axis.outputs(skip, ceil) for axis, skip in zip(axes, skipped, strict=True))]
    value.meta["shape"] = tuple(found)
    for axis, (skip, need) in enumerate(zip(skipped, wanted, strict=True), start=2):
        if found[axis] > need:
            value = insert_call(graph, node, aten.slice.Tensor, (value, axis, skip, skip + need, 1))
            found[axis] = need
            value.meta["shape"] = tuple(found)
    return value


@dataclass(frozen=True)
class _Axis:
    """One axis of a max pool whose border starts `before` wide and ends as wide as `wanted` outputs need."""

    size: int
    window: int
    stride: int
    dilation: int
    before: int
    wanted: int

    def skipped(self, ceil: bool) -> int | None:
        """How many outputs of an even padding stand before the wanted ones; None where none has them all."""
        for skip in range(self.window // 2 + 1):
            fits = self.before + skip * self.stride <= self.window // 2
            if fits and self.outputs(skip, ceil) >= skip + self.wanted:
                return skip
        return None

    def outputs(self, skip: int, ceil: bool) -> int:
        """How many windows there are; with `ceil` one that is cut off counts, unless it starts beyond the map."""
        padding = self.before + skip * self.stride
        room = self.size + 2 * padding - self.dilation * (self.window - 1) - 1
        if not ceil:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.size + padding else count


def _below_all(border: fx.Node) -> bool:
    """No value that is padded can be less than the border: -inf, or at most 0 where none is negative by structure."""
    value, source = bound_args(border)["value"], source_of(border)
    while keeps_codes(op_name(source)) or op_name(source) in POOLS:
        source = source_of(source)
    return value <= torch.finfo(torch.float32).min or (gives_no_negatives(source) and value <= 0)
