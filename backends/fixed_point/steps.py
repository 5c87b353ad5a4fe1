"""The step of every operator, without its tensors: one function an operator, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import fx

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.execution.layer_sums import layer_of
from isobit.backends.fixed_point.numbers import (
    average_rescale,
    difference_rescale,
    function_table,
    layer_rescale,
    logit_scale,
    pool_divisors,
    product_rescale,
    requantize_table,
    single_rescale,
    sum_rescale,
    window_of,
    without_largest,
)
from isobit.backends.fixed_point.operators.reductions import reduction_refusal
from isobit.backends.fixed_point.operators.resampling import RESIZES, divisors_of, resample_rescales, taps_of
from isobit.backends.fixed_point.operators.steps import Extreme, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
    Concat,
    Conv,
    GlobalAverage,
    Lookup,
    MaxPool,
    Product,
    Step,
    Sum,
    Weights,
    Window,
)
from isobit.backends.regions import Region
from isobit.pipeline.graph.dialect import POOLS
from isobit.pipeline.graph.nodes import bound_args, is_constant, known_sizes, op_name, source_of, tensor_shape
from isobit.pipeline.graph.quantized_tensors import quantizer_at
from isobit.pipeline.operators.unary import UNARY

_INT8_BITS = 8
_PACKED_BITS = (2, 3, 4)
# Operators of two tensors, of which one may be repeated along an axis of the other.
PAIRS = ("add", "sub", "mul", "maximum", "minimum")
_REDUCTIONS = frozenset({"sum", "mean_over_dims", "amax", "amin", "argmax", "argmin"})
_OF_MAPS = frozenset({"conv2d", "max_pool2d", *POOLS, *RESIZES})  # operators that know height and width


def make_step(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid | None) -> Step:
    """The step of an integer region, its `inputs` and `output` still open.

    Args:
        graph: frozen.
        grids: of the codes that it reads, in the order of `region.inputs`.
        grid: of the codes that it gives; None of logits.
    """
    operator = op_name(region.anchor)
    make: Callable[..., Step] = _function if operator in UNARY else _STEPS[operator]
    return make(graph, region, grids, grid)


def _layer(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid | None) -> Step:
    node, x = region.anchor, grids[0]
    numbers = layer_of(graph, node)
    residual = grids[1] if len(grids) == 2 else None
    codes = numbers.weight.numpy().astype(np.int8)
    linear = op_name(node) == "linear"
    window = Window((1, 1), (1, 1), (0, 0, 0, 0)) if linear else Window(*window_of(node))
    codes = codes[:, :, None, None] if linear else codes
    bias = np.zeros(len(codes), np.int32) if numbers.bias is None else numbers.bias.numpy().astype(np.int32)
    return Conv(
        *_about(region), weights=_weights(graph, node, codes), bias=bias, window=window,
        groups=1 if linear else bound_args(node)["groups"],
        rescale=None if grid is None else layer_rescale(node, x, numbers, residual, grid),
        low=0 if grid is None else grid.low, high=0 if grid is None else grid.high,
        logit_scale=logit_scale(x, numbers) if grid is None else None,
    )


def _add(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    a, b = grids
    return Sum(*_about(region), sum_rescale(region.anchor, a, b, grid), grid.low, grid.high)


def _sub(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    a, b = grids
    return Sum(*_about(region), difference_rescale(region.anchor, a, b, grid), grid.low, grid.high)


def _extreme(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    first, second = (single_rescale(region.anchor, x, grid) for x in grids)
    return Extreme(*_about(region), (first, second), op_name(region.anchor) == "maximum", grid.low, grid.high)


def _resample(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    rows, columns = taps_of(region.anchor)
    divisors = divisors_of(rows, columns)
    rescales = resample_rescales(region.anchor, divisors, grids[0], grid)
    return Resample(*_about(region), rows, columns, divisors, rescales, grid.low, grid.high)


def _mul(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    a, b = grids
    return Product(*_about(region), product_rescale(region.anchor, a, b, grid), grid.low, grid.high)


def _mean(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    height, width = known_sizes(tensor_shape(source_of(region.anchor))[2:])
    rescale = average_rescale(region.anchor, grids[0], height * width, height * width, grid)
    return GlobalAverage(*_about(region), rescale, grid.low, grid.high)


def _avg_pool2d(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    node, window = region.anchor, Window(*window_of(region.anchor))
    divisors = pool_divisors(node)
    elements = window.kernel[0] * window.kernel[1]
    rescales = {
        divisor: average_rescale(node, grids[0], elements, divisor, grid)
        for divisor in np.unique(divisors).tolist()
    }
    return AveragePool(*_about(region), window, divisors, rescales, grid.low, grid.high)


def _max_pool2d(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    return MaxPool(*_about(region), Window(*window_of(region.anchor)))


def _cat(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    tables = (None if region.is_layout else requantize_table(region.anchor, x, grid) for x in grids)
    return Concat(*_about(region), tuple(tables), high=(grids[0] if region.is_layout else grid).high)


def _function(graph: fx.GraphModule, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
    return Lookup(*_about(region), function_table(graph, region, grids[0], grid), high=grid.high)


def _about(region: Region) -> tuple[str, str, tuple[int, ...], None]:
    return region.value.name, region.module, (), None


def _weights(graph: fx.GraphModule, node: fx.Node, codes: np.ndarray) -> Weights:
    """[K, C, R, S] -> [K, R, S, C], and how many bits hold them."""
    quantizer = quantizer_at(graph, bound_args(node)["weight"])
    grid, codes = quantizer.spec.grid, np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    if grid.bits not in _PACKED_BITS:
        return Weights(codes, _INT8_BITS, np.full(len(codes), 128, np.int16))
    zero_point = quantizer.zero_point.detach().cpu().numpy().reshape(-1) - grid.qmin
    return Weights(codes, grid.bits, np.broadcast_to(zero_point, len(codes)).astype(np.int16))


_STEPS: Mapping[str, Callable[..., Step]] = {
    "conv2d": _layer,
    "linear": _layer,
    "add": _add,
    "sub": _sub,
    "maximum": _extreme,
    "minimum": _extreme,
    **dict.fromkeys(RESIZES, _resample),
    "mul": _mul,
    "mean": _mean,
    "avg_pool2d": _avg_pool2d,
    "max_pool2d": _max_pool2d,
    "cat": _cat,
}


def refusal(node: fx.Node) -> str:
    """Why an operator's arguments have no kernel, or an empty string."""
    name, arguments, shape = op_name(node), bound_args(node), tensor_shape(node)
    if name in UNARY:
        return UNARY[name].refusal(node)
    if name == "max_pool2d" and (reason := without_largest(node)):
        return reason
    if name == "avg_pool2d" and arguments["divisor_override"] is not None:
        return "avg_pool2d with a divisor of its own"
    if name in PAIRS and sum(not is_constant(source) for source in node.args[:2] if isinstance(source, fx.Node)) != 2:
        return f"{name} of one tensor and of values that stand in no other"
    if name in _REDUCTIONS:
        return reduction_refusal(node)
    if name == "embedding" and not (isinstance(arguments["weight"], fx.Node) and arguments["weight"].op == "get_attr"):
        return "embedding in a table that is computed"
    if name == "cat" and joined_axis(node) == 0:
        return "concatenation along axis 0, the batch"
    if name in _OF_MAPS and len(shape) != 4:
        return f"{name} of a tensor of {len(shape)} axes: maps are [N, C, H, W]"
    return ""


def joined_axis(node: fx.Node) -> int:
    """Along which axis a concatenation joins."""
    return bound_args(node)["dim"] % len(tensor_shape(node))
