"""Normalisations: (x - mean) / sqrt(variance + eps), each over the same axes, then factors and shifts.

    over the last axes             -> layer_norm;  over the channels of a map: between two permutes
    over all space, each channel   -> group_norm with a group for each channel (instance norm)
    reshape, norm, reshape         -> group_norm, where the first takes channels in groups
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from isobit.passes.fold_affine import affine_of
from isobit.passes.recognise.rewriting import aten, call, is_call, number_of, parameter, tensor_of
from isobit.pipeline.graph.nodes import bound_args, source_of, tensor_shape
from isobit.pipeline.shapes import known_sizes

_MEANS = (aten.mean.dim,)


@dataclass(frozen=True)
class _Over:
    """A tensor and the axes over which something is computed of it."""

    source: fx.Node
    axes: tuple[int, ...]


def norm(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A norm in parts, without factors; `affine_norm` takes those up."""
    if is_call(node, aten.instance_norm.default):
        args = bound_args(node)
        channels = tensor_shape(source_of(node))[1]
        if args["running_mean"] is not None or not args["use_input_stats"] or channels is None:
            return None
        return call(graph, node, aten.group_norm.default, args["input"], channels, args["weight"], args["bias"],
                    args["eps"], False)  # fmt: skip
    found = _normalised(graph, node)
    if found is None:
        return None
    over, eps = found
    shape, axes = tensor_shape(over.source), list(over.axes)
    rank, sizes = len(shape), [shape[axis] for axis in over.axes]
    if tensor_shape(node) != shape or 0 in axes or None in sizes:
        return None
    if axes == list(range(rank - len(axes), rank)) and not (axes == list(range(2, rank)) and len(axes) > 1):
        return call(graph, node, aten.layer_norm.default, over.source, sizes, None, None, eps, False)
    if axes == list(range(2, rank)) and shape[1] is not None:
        return call(graph, node, aten.group_norm.default, over.source, shape[1], None, None, eps, False)
    if axes != [1]:
        return None
    there, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    moved = [shape[axis] for axis in there]
    last = call(graph, node, aten.permute.default, over.source, there, shape=moved)
    value = call(graph, node, aten.layer_norm.default, last, sizes, None, None, eps, False, shape=moved)
    return call(graph, node, aten.permute.default, value, back)


def _normalised(graph: fx.GraphModule, node: fx.Node) -> tuple[_Over, float] | None:
    if not is_call(node, aten.div.Tensor, aten.mul.Tensor) or node.kwargs.get("rounding_mode") is not None:
        return None
    for centred, scale in (node.args, node.args[::-1]):
        over, found = _centred(centred), _deviation(graph, scale)
        if over is None or found is None or found[0] != over:
            continue
        _, eps, inverse = found
        if inverse == is_call(node, aten.mul.Tensor) and (inverse or centred is node.args[0]):
            return over, eps
    return None


def _mean(value: object) -> tuple[fx.Node, tuple[int, ...]] | None:
    """(what, axes) of a mean that keeps its axes."""
    if not isinstance(value, fx.Node) or not is_call(value, *_MEANS):
        return None
    args = bound_args(value)
    source, rank = source_of(value), len(tensor_shape(source_of(value)))
    if not args["keepdim"] or args["dtype"] is not None or not args["dim"]:
        return None
    return source, tuple(sorted(dim % rank for dim in args["dim"]))


def _centred(value: object) -> _Over | None:
    """x - mean(x)."""
    if not isinstance(value, fx.Node) or not is_call(value, aten.sub.Tensor) or value.kwargs.get("alpha", 1) != 1:
        return None
    found = _mean(value.args[1])
    return _Over(*found) if found is not None and found[0] is value.args[0] else None


def _variance(value: object) -> _Over | None:
    """mean((x - mean(x))^2), mean(x^2) - mean(x)^2, or the operator."""
    if not isinstance(value, fx.Node):
        return None
    if is_call(value, aten.var.correction, aten.var.dim):
        args = bound_args(value)
        biased = args["correction"] == 0 if "correction" in args else not args["unbiased"]
        rank = len(tensor_shape(source_of(value)))
        axes = tuple(sorted(dim % rank for dim in args["dim"] or ()))
        return _Over(source_of(value), axes) if biased and args["keepdim"] and axes else None
    found = _mean(value)
    if found is not None and is_call(found[0], aten.mul.Tensor):
        one, other = (_centred(factor) for factor in found[0].args)
        return one if one is not None and one == other and one.axes == found[1] else None
    if is_call(value, aten.sub.Tensor) and value.kwargs.get("alpha", 1) == 1:
        squares, square = _mean(value.args[0]), value.args[1]
        if squares is None or not isinstance(square, fx.Node) or not is_call(square, aten.mul.Tensor):
            return None
        means = [_mean(factor) for factor in square.args]
        same = is_call(squares[0], aten.mul.Tensor) and squares[0].args[0] is squares[0].args[1]
        if same and means[0] is not None and means[0] == means[1] == (squares[0].args[0], squares[1]):
            return _Over(*means[0])
    return None


def _deviation(graph: fx.GraphModule, value: object) -> tuple[_Over, float, bool] | None:
    """(of what, eps, whether it is the inverse) of sqrt(variance + eps)."""
    inverse = False
    if isinstance(value, fx.Node) and is_call(value, aten.reciprocal.default):
        value, inverse = value.args[0], True
    if not isinstance(value, fx.Node) or not is_call(value, aten.sqrt.default, aten.rsqrt.default):
        return None
    if is_call(value, aten.rsqrt.default):
        inverse = not inverse
    total = source_of(value)
    if not is_call(total, aten.add.Tensor, aten.add.Scalar) or total.kwargs.get("alpha", 1) != 1:
        return None
    for part, constant in (total.args[:2], total.args[1::-1]):
        over, eps = _variance(part), number_of(graph, constant)
        if over is not None and eps is not None and eps >= 0:
            return over, eps, inverse
    return None


# --- factors and groups -----------------------------------------------------------------------------------------------


def affine_norm(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A norm takes up the factor and the shift after it, also through a permute."""
    found = affine_of(graph, node)
    if found is None:
        return None
    source, factor, shift = found
    permute = source if is_call(source, aten.permute.default) and len(source.users) == 1 else None
    inner = source_of(source) if permute is not None else source
    if not is_call(inner, aten.layer_norm.default, aten.group_norm.default) or len(inner.users) != 1:
        return None
    if tensor_shape(node) != tensor_shape(source):
        return None
    factors, shifts = (_along(value, inner, permute) for value in (factor, shift))
    args = bound_args(inner)
    if factors is None or shifts is None:
        return None
    have = [tensor_of(graph, args[name]) if args[name] is not None else None for name in ("weight", "bias")]
    if any(args[name] is not None and value is None for name, value in zip(("weight", "bias"), have, strict=True)):
        return None
    weight = factors if have[0] is None else have[0] * factors
    bias = shifts if have[1] is None else have[1] * factors + shifts
    second = args["normalized_shape"] if is_call(inner, aten.layer_norm.default) else args["num_groups"]
    made = [parameter(graph, node, name, value) for name, value in (("weight", weight), ("bias", bias))]
    value = call(graph, node, inner.target, args["input"], second, *made, args["eps"], False,
                 shape=tensor_shape(inner))  # fmt: skip
    return value if permute is None else call(graph, node, aten.permute.default, value, permute.args[1])


def _along(value: Tensor, inner: fx.Node, permute: fx.Node | None) -> Tensor | None:
    """A constant after a norm as the norm's own parameter; None where it varies along other axes."""
    rank = len(tensor_shape(inner))
    if value.dim() > rank:
        return None
    wide = value.reshape((1,) * (rank - value.dim()) + tuple(value.shape))
    if permute is not None:
        order = list(bound_args(permute)["dims"])
        wide = wide.permute([order.index(axis) for axis in range(rank)])
    if is_call(inner, aten.group_norm.default):
        axes, sizes = [1], [tensor_shape(inner)[1]]
    else:
        sizes = list(bound_args(inner)["normalized_shape"])
        axes = list(range(rank - len(sizes), rank))
    if None in sizes or any(size != 1 for axis, size in enumerate(wide.shape) if axis not in axes):
        return None
    kept = wide.reshape([wide.shape[axis] for axis in axes])
    return kept.broadcast_to(known_sizes(sizes)).clone()


def group_norm(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A norm without factors of its own between two reshapes, of which the first takes channels in groups."""
    if not is_call(node, aten.reshape.default):
        return None
    inner = source_of(node)
    if not is_call(inner, aten.layer_norm.default, aten.group_norm.default) or len(inner.users) != 1:
        return None
    args, first = bound_args(inner), source_of(inner)
    if args["weight"] is not None and not _neutral(graph, args):
        return None
    if not is_call(first, aten.reshape.default) or tensor_shape(source_of(first)) != tensor_shape(node):
        return None
    before, grouped = tensor_shape(source_of(first)), tensor_shape(first)
    if is_call(inner, aten.layer_norm.default):
        whole = len(args["normalized_shape"]) == len(grouped) - 2
    else:
        whole = args["num_groups"] == grouped[1]
    groups, channels = grouped[1], before[1]
    if not whole or len(grouped) < 3 or len(before) < 3 or groups is None or channels is None or channels % groups:
        return None
    if grouped[0] != before[0]:
        return None
    return call(graph, node, aten.group_norm.default, source_of(first), groups, None, None, args["eps"], False)


def _neutral(graph: fx.GraphModule, args: dict[str, object]) -> bool:
    """Factors of one and shifts of zero, as files give to a norm that has none."""
    bias = 0.0 if args["bias"] is None else number_of(graph, args["bias"])
    return number_of(graph, args["weight"]) == 1.0 and bias == 0.0
