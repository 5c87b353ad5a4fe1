"""What a fixed-point artifact must compute, code by code: the frozen graph's regions with the shared integer rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from isobit.backends.execution.codes import CodeGrid, Codes, all_pairs, looked_up
from isobit.backends.execution.integer import FILLED, ExecutedArithmetic, Execution
from isobit.backends.execution.kernels import ElementKernel, Kernel, SumKernel, mean_range, mean_sums
from isobit.backends.execution.layer_sums import (
    SumRange,
    Sums,
    centered_ends,
    conv2d_sums,
    layer_range,
    linear_sums,
    one_range,
    window_sum,
)
from isobit.backends.fixed_point.numbers import (
    CODES,
    average_rescale,
    difference_rescale,
    embedding_table,
    fill_code,
    function_table,
    layer_rescale,
    logit_scale,
    pool_divisors,
    product_rescale,
    requantize_table,
    single_rescale,
    sum_rescale,
    window_of,
)
from isobit.backends.fixed_point.operators.reductions import (
    reduced_axes,
    reduced_elements,
    reduction_rescale,
)
from isobit.backends.fixed_point.operators.resampling import RESIZES, divisors_of, resample_rescales, taps_of
from isobit.backends.fixed_point.operators.steps import Taps
from isobit.backends.fixed_point.rescale import apply_rescale
from isobit.backends.regions import Region
from isobit.pipeline.graph.nodes import bound_args, op_name
from isobit.pipeline.operators.index_map import run_move
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.grid import along
from isobit.pipeline.stages import Reference


class FixedPointArithmetic(ExecutedArithmetic):
    """`Arithmetic` of the fixed-point targets. Float operators are PyTorch's in float32, one after the other.

    Args:
        reference: the frozen graph.
    """

    def __init__(self, reference: Reference) -> None:
        super().__init__(Execution(reference.graph, reference.quantized.target, _kernels(), _leaving))


def _layer_sums(run: Execution, region: Region, inputs: list[Codes]) -> Sums:
    x, numbers = inputs[0], run.layer(region.anchor)
    linear = op_name(region.anchor) == "linear"
    sums = linear_sums(x, numbers) if linear else conv2d_sums(x, numbers, region.anchor)
    return replace(sums, beside=inputs[1].centered) if len(inputs) == 2 else sums


def _layer_codes(run: Execution, region: Region, grids: Sequence[CodeGrid], sums: Sums, grid: CodeGrid) -> Tensor:
    residual = grids[1] if len(grids) == 2 else None
    rescale = run.once(
        region, lambda: layer_rescale(region.anchor, grids[0], run.layer(region.anchor), residual, grid))
    total = sums.integers()
    values = [total] if sums.beside is None else [total, sums.beside.long()]
    return apply_rescale(rescale, values, sums.axis % total.dim())


# Convolution or linear layer, with the residual sum that it runs into.
layer = SumKernel(
    _layer_sums, _layer_codes, lambda run, region, grids: layer_range(run.layer(region.anchor), grids),
)


def logits(run: Execution, region: Region, inputs: list[Codes]) -> Tensor:
    """The last linear layer: its sums times what one unit of them is worth."""
    x, numbers = inputs[0], run.layer(region.anchor)
    total = linear_sums(x, numbers).rounded()
    return total * torch.from_numpy(logit_scale(x.grid, numbers)).to(total.device)


def add(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """Two tensors of codes."""
    rescale = sum_rescale(region.anchor, inputs[0].grid, inputs[1].grid, grid)
    return _of_pairs(run, region, inputs, lambda a, b: apply_rescale(rescale, [a.centered.long(), b.centered.long()]))


def sub(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """The difference of two tensors of codes."""
    rescale = difference_rescale(region.anchor, inputs[0].grid, inputs[1].grid, grid)
    return _of_pairs(run, region, inputs, lambda a, b: apply_rescale(rescale, [a.centered.long(), b.centered.long()]))


def extreme(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """The larger or the smaller of two, both brought to the grid of the result."""
    first, second = (single_rescale(region.anchor, value.grid, grid) for value in inputs)
    choose = torch.maximum if op_name(region.anchor) == "maximum" else torch.minimum
    return _of_pairs(run, region, inputs, lambda a, b: choose(
        *torch.broadcast_tensors(apply_rescale(first, [a.centered.long()]), apply_rescale(second, [b.centered.long()]))
    ))


def mul(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """An elementwise product, exact before it is rescaled."""
    rescale = product_rescale(region.anchor, inputs[0].grid, inputs[1].grid, grid)
    return _of_pairs(run, region, inputs, lambda a, b: apply_rescale(rescale, [(a.centered * b.centered).long()]))


def _of_pairs(
    run: Execution, region: Region, inputs: list[Codes], function: Callable[[Codes, Codes], Tensor]
) -> Tensor:
    """An elementwise function of two tensors of codes, clipped to a byte."""
    a, b = inputs
    table = run.once(region, lambda: all_pairs(function, a.grid, b.grid).clamp(0, 255))
    return looked_up(table, a.codes, b.codes)


def _mean_codes(run: Execution, region: Region, grids: Sequence[CodeGrid], sums: Sums, grid: CodeGrid) -> Tensor:
    rescale = average_rescale(region.anchor, grids[0], sums.elements, sums.elements, grid)
    return apply_rescale(rescale, [sums.integers()])


# The sum over the map, divided in the multiplier.
mean = SumKernel(mean_sums, _mean_codes, mean_range)


def _reduction_sums(run: Execution, region: Region, inputs: list[Codes]) -> Sums:
    axes, keep = reduced_axes(region.anchor), bool(bound_args(region.anchor).get("keepdim"))
    return Sums(inputs[0].centered.double().sum(axes, keepdim=keep))


def _reduction_range(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> SumRange:
    low, high = centered_ends(grids[0])
    count = reduced_elements(region.anchor)
    return one_range(count * low, count * high, 2)


# The sum over some axes, divided in the multiplier where it is a mean.
reduction = SumKernel(
    _reduction_sums,
    lambda run, region, grids, sums, grid: apply_rescale(
        reduction_rescale(region.anchor, grids[0], grid), [sums.integers()], 0),
    _reduction_range,
)


def resample(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """Weighted sums of rows and columns, a multiplier for each divisor."""
    x, node = inputs[0], region.anchor
    rows, columns = taps_of(node)
    divisors = divisors_of(rows, columns)
    spread = [torch.from_numpy(_dense(taps, size)).double() for taps, size in zip(
        (rows, columns), x.codes.shape[2:], strict=True)]
    total = torch.einsum("yi,xj,ncij->ncyx", *spread, x.centered.double().cpu()).round().long()
    result = torch.zeros_like(total)
    for divisor, rescale in resample_rescales(node, divisors, x.grid, grid).items():
        chosen = torch.from_numpy(divisors == divisor)
        result = torch.where(chosen, apply_rescale(rescale, [total]), result)
    return result.to(x.codes.device)


def _dense(taps: Taps, size: int) -> np.ndarray:
    """int64 [M, size]: the weight of every row of the input."""
    found = np.zeros((len(taps.first), size), np.int64)
    places = taps.first[:, None] + np.arange(taps.weights.shape[1])
    np.put_along_axis(found, places, taps.weights.astype(np.int64), 1)
    return found


def embedding(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """Rows of a table of codes; as in the kernels, a number outside of it counts as the nearest row."""
    table = run.once(region, lambda: torch.from_numpy(embedding_table(run.graph, region.anchor, grid)))
    rows = inputs[0].codes.long().clamp(0, len(table) - 1)
    return table.to(rows.device)[rows].float()


def argmax(run: Execution, region: Region, inputs: list[Codes]) -> Tensor:
    """Where the largest, or the smallest, code stands; of equal ones the first."""
    node, codes = region.anchor, inputs[0].codes
    (axis,) = reduced_axes(node)
    keep = bool(bound_args(node).get("keepdim"))
    end = codes.amax(axis, keepdim=True) if op_name(node) == "argmax" else codes.amin(axis, keepdim=True)
    numbers = along(torch.arange(codes.shape[axis], device=codes.device), axis, codes.dim())
    found = torch.where(codes == end, numbers, codes.shape[axis])
    return found.amin(axis, keepdim=keep)


def _pool_sums(run: Execution, region: Region, inputs: list[Codes]) -> Sums:
    x = inputs[0]
    kernel, stride, (top, left, bottom, right), _ = window_of(region.anchor)
    # float32 holds the sums of windows below 256 x 256.
    codes = x.centered if kernel[0] * kernel[1] < 1 << 16 else x.centered.double()
    return Sums(window_sum(torch.nn.functional.pad(codes, (left, right, top, bottom)), kernel, stride))


def _pool_codes(run: Execution, region: Region, grids: Sequence[CodeGrid], sums: Sums, grid: CodeGrid) -> Tensor:
    node, total = region.anchor, sums.integers()
    kernel = window_of(node)[0]
    divisors = torch.from_numpy(pool_divisors(node)).to(total.device)
    result = torch.zeros_like(total)
    for divisor in divisors.unique().tolist():
        rescale = average_rescale(node, grids[0], kernel[0] * kernel[1], divisor, grid)
        result = torch.where(divisors == divisor, apply_rescale(rescale, [total]), result)
    return result


def _pool_range(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> SumRange:
    kernel, divisors = window_of(region.anchor)[0], torch.from_numpy(pool_divisors(region.anchor))[None]
    least, largest = (
        torch.full(divisors.shape, kernel[0] * kernel[1] * end, dtype=torch.int64) for end in centered_ends(grids[0]))
    return SumRange(least, largest)


# Window sums, a multiplier for each divisor.
avg_pool2d = SumKernel(_pool_sums, _pool_codes, _pool_range)


def cat(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """Operands on other grids go through a table."""
    return torch.cat([_regridded(region, value, grid) for value in inputs], bound_args(region.anchor)["dim"])


def filled(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """Codes brought to the grid of the result by a table, moved beside the code of a number."""
    return run_move(region.anchor, _regridded(region, inputs[0], grid), fill_code(region.anchor, grid))


def function(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """Operators of one tensor that no kernel fuses: a table, or one for each channel."""
    table = run.once(region, lambda: function_table(run.graph, region, inputs[0].grid, grid))
    return _looked_up(table, inputs[0])


def _regridded(region: Region, value: Codes, grid: CodeGrid) -> Tensor:
    table = requantize_table(region.anchor, value.grid, grid)
    return value.codes if table is None else _looked_up(table, value)


def _looked_up(table: np.ndarray, value: Codes) -> Tensor:
    index = value.codes.long()
    if table.ndim == 2:
        index = index + CODES * along(torch.arange(len(table), device=index.device), 1, index.dim())
    return torch.from_numpy(table).to(index.device).flatten()[index].to(value.codes)


KERNELS = {
    "conv2d": layer,
    "linear": layer,
    "add": ElementKernel(add),
    "mul": ElementKernel(mul),
    "sub": ElementKernel(sub),
    "maximum": ElementKernel(extreme),
    "minimum": ElementKernel(extreme),
    "mean": mean,
    "sum": reduction,
    "mean_over_dims": reduction,
    **dict.fromkeys(RESIZES, resample),
    "embedding": embedding,
    "avg_pool2d": avg_pool2d,
    "cat": ElementKernel(cat, together=False),
    FILLED: ElementKernel(filled),
}


# What leaves without a grid.
LEAVING = {"linear": logits, "argmax": argmax, "argmin": argmax}


def _leaving(run: Execution, region: Region, inputs: list[Codes]) -> Tensor:
    return LEAVING[op_name(region.anchor)](run, region, inputs)


def _kernels() -> dict[str, Kernel]:
    return {**KERNELS, **dict.fromkeys(UNARY, ElementKernel(function))}
