"""What a fixed-point artifact must compute, code by code: the frozen graph's regions with the shared integer rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from backends.fixed_point.numbers import (
    FUNCTIONS,
    average_rescale,
    function_of,
    function_table,
    layer_rescale,
    logit_scale,
    pool_divisors,
    product_rescale,
    requantize_table,
    sum_rescale,
    window_of,
)
from backends.fixed_point.rescale import apply_rescale
from backends.integer import (
    CodeGrid,
    Codes,
    Execution,
    Value,
    all_pairs,
    conv2d_sums,
    linear_sums,
    looked_up,
    window_sum,
)
from backends.regions import Region
from pipeline.graph import bound_args, op_name
from pipeline.parity import Followed
from pipeline.stages import Reference


class FixedPointArithmetic:
    """`Arithmetic` of the fixed-point targets: no float operator, so nothing to follow.

    Args:
        reference: the frozen graph.
    """

    float_boundaries: tuple[str, ...] = ()
    float_output = False

    def __init__(self, reference: Reference) -> None:
        self.execution = Execution(reference.graph, reference.quantized.target, KERNELS)

    def run(self, x: Tensor) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name in execution order, and float32 `logits`, of x float32 [N, C, H, W]."""
        return self.execution.walk(x, {})[0]

    def follow(self, x: Tensor, codes: Mapping[str, np.ndarray]) -> Followed:
        """`run`: there is nothing to take over."""
        return Followed(self.run(x), {})


def layer(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """Convolution or linear layer, with the residual sum that it runs into; logits where the region has no grid."""
    x, numbers = inputs[0], run.layer(region.anchor)
    linear = op_name(region.anchor) == "linear"
    sums = linear_sums(x, numbers) if linear else conv2d_sums(x, numbers, region.anchor)
    if grid is None:
        total = sums.rounded()
        return total * torch.from_numpy(logit_scale(x.grid, numbers)).to(total.device)
    residual = inputs[1] if len(inputs) == 2 else None
    rescale = run.once(region, lambda: layer_rescale(
        region.anchor, x.grid, numbers, None if residual is None else residual.grid, grid
    ))
    total = sums.integers()
    values = [total] if residual is None else [total, residual.centered.long()]
    return apply_rescale(rescale, values)


def add(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """Two tensors of codes."""
    rescale = sum_rescale(region.anchor, inputs[0].grid, inputs[1].grid, grid)
    return _of_pairs(run, region, inputs, lambda a, b: apply_rescale(rescale, [a.centered.long(), b.centered.long()]))


def mul(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """An elementwise product, exact before it is rescaled."""
    rescale = product_rescale(region.anchor, inputs[0].grid, inputs[1].grid, grid)
    return _of_pairs(run, region, inputs, lambda a, b: apply_rescale(rescale, [(a.centered * b.centered).long()]))


def _of_pairs(
    run: Execution, region: Region, inputs: list[Value], function: Callable[[Codes, Codes], Tensor]
) -> Tensor:
    """An elementwise function of two tensors of codes, clipped to a byte."""
    a, b = inputs
    table = run.once(region, lambda: all_pairs(function, a.grid, b.grid).clamp(0, 255))
    return looked_up(table, a.codes, b.codes)


def mean(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """The sum over the map, divided in the multiplier."""
    x = inputs[0]
    count = x.codes.shape[2] * x.codes.shape[3]
    total = x.centered.long().sum((2, 3), keepdim=True)
    return apply_rescale(average_rescale(region.anchor, x.grid, count, count, grid), [total])


def avg_pool2d(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """Window sums, a multiplier for each divisor."""
    x, node = inputs[0], region.anchor
    kernel, stride, (top, left, bottom, right), _ = window_of(node)
    # float32 holds the sums of windows below 256 x 256.
    codes = x.centered if kernel[0] * kernel[1] < 1 << 16 else x.centered.double()
    total = window_sum(torch.nn.functional.pad(codes, (left, right, top, bottom)), kernel, stride).long()
    divisors = torch.from_numpy(pool_divisors(node)).to(total.device)
    result = torch.zeros_like(total)
    for divisor in divisors.unique().tolist():
        rescale = average_rescale(node, x.grid, kernel[0] * kernel[1], divisor, grid)
        result = torch.where(divisors == divisor, apply_rescale(rescale, [total]), result)
    return result


def cat(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """Operands on other grids go through a table."""
    tables = [requantize_table(region.anchor, value.grid, grid) for value in inputs]
    moved = [value.codes if table is None else _looked_up(table, value)
             for value, table in zip(inputs, tables, strict=True)]
    return torch.cat(moved, bound_args(region.anchor)["dim"])


def function(run: Execution, region: Region, inputs: list[Value], grid: CodeGrid | None) -> Tensor:
    """sigmoid, hardsigmoid, an activation that no kernel fuses: a table."""
    return _looked_up(function_table(function_of(region.anchor), inputs[0].grid, grid), inputs[0])


def _looked_up(table: np.ndarray, value: Codes) -> Tensor:
    return torch.from_numpy(table).to(value.codes.device)[value.codes.long()].to(value.codes)


KERNELS = {
    "conv2d": layer,
    "linear": layer,
    "add": add,
    "mul": mul,
    "mean": mean,
    "avg_pool2d": avg_pool2d,
    "cat": cat,
    **dict.fromkeys(FUNCTIONS, function),
}
