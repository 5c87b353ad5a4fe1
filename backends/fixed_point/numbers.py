"""The integers of every operator's kernel: one function each, read by the arithmetic and by the lowering alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.codes import CodeGrid, Codes, dequantized, quantize_float
from isobit.backends.execution.layer_sums import Layer, explicit_padding
from isobit.backends.fixed_point.rescale import Part, Rescale, apply_rescale, make_rescale
from isobit.backends.regions import Region
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import (
    bound_args,
    get_attribute,
    known_sizes,
    op_name,
    pair,
    source_of,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.sums import layer_sums, magnitude
from isobit.pipeline.operators.joined import composed
from isobit.pipeline.operators.moves import MOVES

CODES = 256
_LARGEST = CODES - 1  # magnitude of a code minus its zero point, whatever the zero point


def _ratio(step: float | np.ndarray, grid: CodeGrid) -> np.ndarray:
    return np.atleast_1d(np.asarray(step, np.float64) / float(grid.scale))


def layer_rescale(node: fx.Node, x: CodeGrid, layer: Layer, residual: CodeGrid | None, grid: CodeGrid) -> Rescale:
    """The rescale of a convolution or linear layer, its residual sum included."""
    bound = magnitude(*layer_sums(layer.weight, -x.zero_point, _LARGEST - x.zero_point, layer.bias))
    step = float(x.scale) * layer.scale.numpy().astype(np.float64)
    parts = [Part(_ratio(step, grid), bound)]
    if residual is not None:
        parts.append(Part(_ratio(float(residual.scale), grid), _LARGEST))
    return make_rescale(parts, grid.zero_point, where(node))


def logit_scale(x: CodeGrid, layer: Layer) -> np.ndarray:
    """float32 [K]: what one unit of the sum is worth, where it leaves in float."""
    return (x.scale * layer.scale).numpy()


def sum_rescale(node: fx.Node, a: CodeGrid, b: CodeGrid, grid: CodeGrid) -> Rescale:
    """The rescale of an addition of two tensors of codes."""
    parts = [Part(_ratio(float(operand.scale), grid), _LARGEST) for operand in (a, b)]
    return make_rescale(parts, grid.zero_point, where(node))


def difference_rescale(node: fx.Node, a: CodeGrid, b: CodeGrid, grid: CodeGrid) -> Rescale:
    """The rescale of a subtraction: that of a sum, the second term negative."""
    rescale = sum_rescale(node, a, b, grid)
    first, second = rescale.terms
    return replace(rescale, terms=(first, replace(second, multiplier=-second.multiplier)))


def single_rescale(node: fx.Node, x: CodeGrid, grid: CodeGrid) -> Rescale:
    """The rescale of codes that only change their grid."""
    return make_rescale([Part(_ratio(float(x.scale), grid), _LARGEST)], grid.zero_point, where(node))


def product_rescale(node: fx.Node, a: CodeGrid, b: CodeGrid, grid: CodeGrid) -> Rescale:
    """The rescale of an elementwise product."""
    ratio = _ratio(float(a.scale) * float(b.scale), grid)
    return make_rescale([Part(ratio, _LARGEST * _LARGEST)], grid.zero_point, where(node))


def average_rescale(node: fx.Node, x: CodeGrid, elements: int, divisor: int, grid: CodeGrid) -> Rescale:
    """The rescale of a sum over at most `elements` codes that is divided by `divisor`."""
    part = Part(_ratio(float(x.scale) / divisor, grid), _LARGEST * elements)
    return make_rescale([part], grid.zero_point, where(node))


def pool_divisors(node: fx.Node) -> np.ndarray:
    """int32 [H, W] of the output of avg_pool2d: what each window's sum is divided by."""
    arguments = bound_args(node)
    kernel, stride, padding = window_of(node)[:3]
    height, width = known_sizes(tensor_shape(node)[2:])
    sizes, border = known_sizes(tensor_shape(source_of(node))[2:]), pair(arguments["padding"])
    counted = border if arguments["count_include_pad"] else (0, 0)
    # What ceil_mode reads beyond the padding is not counted.
    inside = [
        np.minimum(start + kernel[axis], sizes[axis] + counted[axis]) - np.maximum(start, -counted[axis])
        for axis, count in enumerate((height, width))
        for start in [np.arange(count) * stride[axis] - padding[axis]]
    ]
    return np.outer(*inside).astype(np.int32)


def without_largest(node: fx.Node) -> str:
    """Why there is no maximum for some pixel of a pool's result, or an empty string."""
    if op_name(node) != "max_pool2d":
        return ""
    given = bound_args(node)
    kernel, padding, dilation = (pair(given[name]) for name in ("kernel_size", "padding", "dilation"))
    sizes, counts = (known_sizes(tensor_shape(each)[-2:]) for each in (source_of(node), node))
    for size, count, taps, stride, before, apart in zip(
            sizes, counts, kernel, pair(given["stride"] or kernel), padding, dilation, strict=True):
        for first in range(-before, count * stride - before, stride):
            if not any(0 <= first + tap * apart < size for tap in range(taps)):
                return "max_pool2d with a window in its padding alone, where nothing is the largest"
    return ""


def window_of(
    node: fx.Node,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Kernel, stride, padding (top, left, bottom, right) and dilation of a convolution or pool.

    The padding below and right is what the output really reads, which ceil_mode makes more and an uneven stride less.
    """
    arguments = bound_args(node)
    dilation = pair(arguments.get("dilation", 1))
    if op_name(node) in WEIGHTED:
        kernel, stride = known_sizes(tensor_shape(arguments["weight"])[2:]), pair(arguments["stride"])
    else:
        kernel = pair(arguments["kernel_size"])
        stride = pair(arguments["stride"] or arguments["kernel_size"])
    top, left = explicit_padding(arguments["padding"], kernel, dilation)[:2]
    sizes, found = (known_sizes(tensor_shape(each)[2:]) for each in (source_of(node), node))
    read = [(found[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    bottom, right = (max(0, read[axis] - sizes[axis] - before) for axis, before in enumerate((top, left)))
    return (kernel[0], kernel[1]), stride, (top, left, bottom, right), dilation


def requantize_table(node: fx.Node, x: CodeGrid, grid: CodeGrid) -> np.ndarray | None:
    """uint8 [256]: the codes of `x` on `grid`, by the same rule as every other rescaling; None where they are on it."""
    same = (float(x.scale), x.zero_point) == (float(grid.scale), grid.zero_point)
    if same and grid.low <= x.low and x.high <= grid.high:
        return None
    rescale = single_rescale(node, x, grid)
    codes = apply_rescale(rescale, [torch.arange(CODES) - x.zero_point], axis=0)
    return codes.clamp(grid.low, grid.high).numpy().astype(np.uint8)


def fill_code(node: fx.Node, grid: CodeGrid) -> int:
    """The code of the number that a move writes where no element comes from."""
    code = grid.code_of(float(bound_args(node)[MOVES[op_name(node)].fill]))
    return min(max(code, grid.low), grid.high)


def embedding_table(graph: fx.GraphModule, node: fx.Node, grid: CodeGrid) -> np.ndarray:
    """uint8 [V, D]: the codes of an embedding's table, rounded half to even from float64."""
    values = get_attribute(graph, bound_args(node)["weight"]).detach().cpu().double().numpy()
    codes = np.rint(values / float(grid.scale)) + grid.zero_point
    return codes.clip(grid.low, grid.high).astype(np.uint8)


def regrid_table(x: CodeGrid, grid: CodeGrid) -> np.ndarray:
    """uint8 [256]: what a quantizer makes of codes that have a grid already, by the formula of `Execution`."""
    codes = Codes(torch.arange(CODES, dtype=torch.float32), x)
    return grid.settle(quantize_float(dequantized(codes), grid)).numpy().astype(np.uint8)


def function_table(graph: fx.GraphModule, region: Region, x: CodeGrid, grid: CodeGrid) -> np.ndarray:
    """uint8 [256] or [channels, 256]: a region of operators of one tensor on codes, rounded half to even from float64.

    One table serves all channels where they have no parameters of their own.
    """
    values = float(x.scale) * (np.arange(CODES, dtype=np.float64) - x.zero_point)
    values = composed(graph, (region.anchor, *region.absorbed), values)
    codes = np.rint(values / float(grid.scale)) + grid.zero_point
    if np.isnan(codes).any():
        raise TargetError(
            f"{region.kind} gives no number for some codes of its input", where=where(region.anchor),
            hint="keep what it reads inside of its domain, with clamp()",
        )
    return codes.clip(grid.low, grid.high).astype(np.uint8)
