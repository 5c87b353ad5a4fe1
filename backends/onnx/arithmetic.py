"""The integer arithmetic of ONNX Runtime's CPU kernels, formula by formula, evaluated with torch.

Every formula is float32 with round half to even; each was fuzzed against the kernels on x86 (AVX2 and AVX-512) without
one mismatch. A fused multiply-add rounds once: the product of a code and a float32 is exact in float64, so the
sum in float64, rounded to float32, is the fused result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from isobit.backends.execution.codes import CodeGrid, Codes, all_pairs, dequantized, looked_up, quantize_float
from isobit.backends.execution.integer import ExecutedArithmetic, Execution
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
from isobit.backends.regions import Region
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.nodes import bound_args, known_sizes, op_name, pair, tensor_shape, where
from isobit.pipeline.quant.grid import along
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target

# What a step of the operand may be of a step of the result, less the division by their number.
MEAN_RATIOS = (2.0**-32, 2.0**8)


class IntegerArithmetic(ExecutedArithmetic):
    """What the artifact must compute, code by code.

    Args:
        reference: the frozen graph.
        target: the description that it was annotated with; default: the reference's own.
    """

    def __init__(self, reference: Reference, target: Target | None = None) -> None:
        super().__init__(Execution(reference.graph, target or reference.quantized.target, KERNELS, logits))


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a.double() * b.double() + c.double()).float()


def _f32(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=like.device)


def _requantize(total: Tensor, multiplier: Tensor, zero_point: int) -> Tensor:
    """QLinearConv, QGemm, QLinearGlobalAveragePool: one float32 product, clip, round, then the zero point; in place.

    Args:
        total: sums in float32, the caller's to lose.
    """
    steps = total.mul_(multiplier).clamp_(-zero_point, 255 - zero_point).round_()
    return steps.add_(zero_point) if zero_point else steps


def _sum_scale(x: CodeGrid, scale: Tensor, like: Tensor) -> Tensor:
    return x.scale.to(like.device) * scale.to(like.device)


def _layer_sums(run: Execution, region: Region, inputs: list[Codes]) -> Sums:
    layer = run.layer(region.anchor)
    if op_name(region.anchor) == "linear":
        return linear_sums(inputs[0], layer)
    return conv2d_sums(inputs[0], layer, region.anchor)


def _layer_codes(run: Execution, region: Region, grids: Sequence[CodeGrid], sums: Sums, grid: CodeGrid) -> Tensor:
    total = sums.rounded()
    multiplier = _sum_scale(grids[0], run.layer(region.anchor).scale, total) / grid.scale.to(total.device)
    return _requantize(total, along(multiplier, sums.axis % total.dim(), total.dim()), grid.zero_point)


# QLinearConv and QGemm: `acc * f32(f32(s_x * s_w) / s_y)`.
layer = SumKernel(
    _layer_sums, _layer_codes, lambda run, region, grids: layer_range(run.layer(region.anchor), grids),
)


def logits(run: Execution, region: Region, inputs: list[Codes]) -> Tensor:
    """QGemm without an output grid: the float32 values `acc * f32(s_x * s_w)`."""
    x, layer = inputs[0], run.layer(region.anchor)
    return linear_sums(x, layer).rounded().mul_(_sum_scale(x.grid, layer.scale, x.codes))


def add(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearAdd of two quantized tensors."""
    order, _ = addends(*(value.codes.shape for value in inputs))
    a, b = (inputs[place] for place in order)
    table = run.once(region, lambda: _sums_of_pairs(region, a, b, grid))
    return looked_up(table, a.codes, b.codes)


def _sums_of_pairs(region: Region, a: Codes, b: Codes, grid: CodeGrid) -> Tensor:
    """The codes of every pair.

    Raises:
        TargetError: a sample is one number, so that a batch of one has the other order, and that gives other codes.
    """
    steps = functools.partial(add_steps, grid=grid)
    table = _rounded(region, all_pairs(steps, a.grid, b.grid))
    if max(a.codes[:1].numel(), b.codes[:1].numel()) == 1:
        swapped = _rounded(region, all_pairs(steps, b.grid, a.grid)).view(256, 256).T.flatten()
        if not torch.equal(table, swapped):
            raise TargetError(
                f"{op_name(region.anchor)} adds one number to one number, and ONNX Runtime's kernel rounds a batch of "
                "one in another order", where=where(region.anchor), allowed="two or more numbers a sample",
                hint="Keep this operator in float: an override with `float: true`.",
            )
    return table


def addends(left: Sequence[int | None], right: Sequence[int | None]) -> tuple[tuple[int, int], bool]:
    """In which order an addition's operands of two shapes go to its kernel, and whether the first is repeated before.

    QLinearAdd rounds twice, and which operand it takes first depends on the axis that changes fastest; a session may
    change that (channels last). Where the first operand is of the result's shape, it is always the first.
    """
    whole = [b if a == 1 else a for a, b in zip(left, right, strict=True)]
    if whole == [*right] != [*left]:
        return (1, 0), False
    return (0, 1), whole != [*left]


def add_steps(a: Codes, b: Codes, grid: CodeGrid) -> Tensor:
    """QLinearAdd: two fused multiply-adds on the raw codes, the zero points gathered in one constant; not rounded.

    Args:
        a: the operand that `addends` puts first.
    """
    device = a.codes.device
    out_scale = grid.scale.to(device)
    ratio_a, ratio_b = a.grid.scale.to(device) / out_scale, b.grid.scale.to(device) / out_scale
    zero_a, zero_b = _f32(a.grid.zero_point, a.codes), _f32(b.grid.zero_point, a.codes)
    fixed = _f32(grid.zero_point, a.codes) - _fma(ratio_a, zero_a, ratio_b * zero_b)
    return _fma(a.codes, ratio_a, _fma(b.codes, ratio_b, fixed))


def _rounded(region: Region, steps: Tensor) -> Tensor:
    """The codes of what QLinearAdd and QLinearMul round: to int32 first, where beyond it a large number is negative.

    Raises:
        TargetError: a number is beyond int32.
    """
    most = float(steps.abs().max())
    if not most < 2**31:  # nor what is not a number
        raise _too_far_apart(region, f"reads values up to {most:.2g} steps of its result", f"below {2**31:,}")
    return torch.round(steps).clamp(0, 255)


def _too_far_apart(region: Region, what: str, allowed: str) -> TargetError:
    return TargetError(
        f"{op_name(region.anchor)} {what}: more than ONNX Runtime's kernel computes", where=where(region.anchor),
        allowed=allowed, hint="What it reads and what it gives are in ranges too far apart: check the model's weights, "
        "or keep this operator in float: an override with `float: true`.",
    )


def mul(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearMul of two quantized tensors."""
    a, b = inputs
    steps = functools.partial(mul_steps, grid=grid)
    table = run.once(region, lambda: _rounded(region, all_pairs(steps, a.grid, b.grid)))
    return looked_up(table, a.codes, b.codes)


def mul_steps(a: Codes, b: Codes, grid: CodeGrid) -> Tensor:
    """QLinearMul: the integer product times one multiplier, then the zero point, each a float32; not rounded."""
    device = a.codes.device
    multiplier = a.grid.scale.to(device) * b.grid.scale.to(device) / grid.scale.to(device)
    product = a.centered * b.centered
    return product * multiplier + grid.zero_point


def _matmul_sums(run: Execution, region: Region, inputs: list[Codes]) -> Sums:
    a, b = inputs
    largest = a.codes.shape[-1] * 255 * 255
    exact = torch.float32 if largest < 1 << 24 and a.codes.device.type == "cpu" else torch.float64
    return Sums(torch.matmul(a.centered.to(exact), b.centered.to(exact)))


def _matmul_codes(run: Execution, region: Region, grids: Sequence[CodeGrid], sums: Sums, grid: CodeGrid) -> Tensor:
    total = sums.rounded()
    return _requantize(total, _sum_scale(grids[0], grids[1].scale, total) / grid.scale.to(total.device),
                       grid.zero_point)


def _matmul_range(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> SumRange:
    products = [a * b for a in centered_ends(grids[0]) for b in centered_ends(grids[1])]
    depth = known_sizes(tensor_shape(region.inputs[0])[-1:])[0]
    return one_range(depth * min(products), depth * max(products), len(tensor_shape(region.tail)))


# QLinearMatMul of two quantized tensors: as QLinearConv.
matmul = SumKernel(_matmul_sums, _matmul_codes, _matmul_range)


def _mean_codes(run: Execution, region: Region, grids: Sequence[CodeGrid], sums: Sums, grid: CodeGrid) -> Tensor:
    total = sums.rounded()
    multiplier = grids[0].scale.to(total.device) / (grid.scale.to(total.device) * sums.elements)
    low, high = MEAN_RATIOS
    if not low <= float(multiplier) < high:
        what = f"adds up steps of {float(multiplier):.2g} of its result's"
        raise _too_far_apart(region, what, f"{low:.2g} to {high:g}")
    return _requantize(total, multiplier, grid.zero_point)


# QLinearGlobalAveragePool: an integer sum, one float32 multiplier.
mean = SumKernel(mean_sums, _mean_codes, mean_range)


def avg_pool2d(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearAveragePool: dequantized values summed one after the other; the zero point is added before rounding."""
    x, arguments = inputs[0], bound_args(region.anchor)
    kernel = pair(arguments["kernel_size"])
    stride = pair(arguments["stride"] or arguments["kernel_size"])
    rows, columns = pair(arguments["padding"])
    values = F.pad(dequantized(x), (columns, columns, rows, rows))
    inside = F.pad(torch.ones_like(x.codes[:1, :1]), (columns, columns, rows, rows))
    total, count = window_sum(values, kernel, stride), window_sum(inside, kernel, stride)
    if arguments["count_include_pad"]:
        count = torch.full_like(count, kernel[0] * kernel[1])
    steps = (total / count) / grid.scale.to(total.device) + grid.zero_point
    return torch.round(steps).clamp(0, 255)


def cat(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearConcat: every operand through a table of the float formula, steps rounded after the zero point."""
    moved = [quantize_float(dequantized(value), grid) for value in inputs]
    return torch.cat(moved, bound_args(region.anchor)["dim"])


def hardsigmoid(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearAdd of the constant 3 on a grid of scale 6 * s; saturation is the clamp, and the codes are the gate's."""
    three = Codes(torch.ones(1), _GATE_OFFSET)
    return _by_table(run, region, inputs[0], lambda x: _rounded(region, add_steps(x, three, _gate_grid(grid))))


def _by_table(run: Execution, region: Region, x: Codes, function: Callable[[Codes], Tensor]) -> Tensor:
    """What `function` makes of `x`, looked up among what it makes of every code, which is computed once."""
    every = Codes(torch.arange(256, dtype=torch.float32), x.grid)
    return run.once(region, lambda: function(every)).to(x.codes.device)[x.codes.long()]


def leaky_relu(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearLeakyRelu: a table of the float formula."""
    return quantize_float(F.leaky_relu(dequantized(inputs[0]), _slope(region.anchor)), grid)


def activation(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """relu or hardtanh after no operator that absorbs it: QLinearLeakyRelu of slope 1; the ends are the grid's."""
    return quantize_float(dequantized(inputs[0]), grid)


def _slope(node: fx.Node) -> float:
    return float(bound_args(node)["negative_slope"])


# The constant 3 of hardsigmoid, clip(x + 3, 0, 6) / 6, as one code.
_GATE_OFFSET = CodeGrid(torch.tensor(3.0), 0, 0, 255)


def _gate_grid(grid: CodeGrid) -> CodeGrid:
    """The grid of x + 3 whose codes are those of hardsigmoid(x) on `grid`."""
    return CodeGrid(grid.scale * 6, grid.zero_point, grid.low, grid.high)


# ONNX Runtime's logistic function: a quotient of polynomials in x * x, from the highest power down.
_LOGISTIC_ABOVE = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03,
                   2.48287947061529e-01)
_LOGISTIC_BELOW = (6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03,
                   1.16817656904453e-01, 9.93151921023180e-01)


def logistic(x: Tensor) -> Tensor:
    """The sigmoid of float32 numbers as ONNX Runtime computes it, to the bit: one code in some hundred thousand lies so
    near the middle of two that the last bit decides.
    """
    x = x.float().clamp(-18, 18)
    square = x * x

    def polynomial(factors: Sequence[float]) -> Tensor:
        total = _f32(factors[0], x)
        for factor in factors[1:]:
            total = _fma(total, square, _f32(factor, x))
        return total

    return (polynomial(_LOGISTIC_ABOVE) * x / polynomial(_LOGISTIC_BELOW) + 0.5).clamp(0, 1)


def sigmoid(run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
    """QLinearSigmoid: a table of the float formula."""
    return _by_table(run, region, inputs[0], lambda x: quantize_float(logistic(dequantized(x)), grid))


@dataclass(frozen=True)
class UnaryKernel:
    """An integer kernel for an operator of one tensor (`pipeline.operators.unary`).

    Args:
        op: its name.
        codes: what it computes.
        slope: its attribute `alpha`, of a call; None where it has none.
        addend: grid of the constant code 1 that stands before its operand; None where it has one operand. QLinearAdd
            takes a first operand that is one number last, whatever the shapes; a second one only where the last axis
            is longer than 1.
        grid: the grid on which the kernel's codes are those of the operator on a given one.
    """

    op: str
    codes: Kernel
    slope: Callable[[fx.Node], float] | None = None
    addend: CodeGrid | None = None
    grid: Callable[[CodeGrid], CodeGrid] = lambda grid: grid


_SLOPED = "QLinearLeakyRelu"
UNARY_KERNELS: Mapping[str, UnaryKernel] = {
    "hardsigmoid": UnaryKernel("QLinearAdd", hardsigmoid, addend=_GATE_OFFSET, grid=_gate_grid),
    "sigmoid": UnaryKernel("QLinearSigmoid", sigmoid),
    "leaky_relu": UnaryKernel(_SLOPED, leaky_relu, _slope),
    # The ends of the grid are all that these do.
    **dict.fromkeys(sorted(ACTIVATIONS), UnaryKernel(_SLOPED, activation, lambda node: 1.0)),
}
KERNELS: Mapping[str, Kernel] = {
    "conv2d": layer,
    "linear": layer,
    "add": ElementKernel(add),
    "mul": ElementKernel(mul),
    "matmul": matmul,
    "mean": mean,
    "avg_pool2d": avg_pool2d,
    "cat": ElementKernel(cat, together=False),
    **{name: ElementKernel(kernel.codes) for name, kernel in UNARY_KERNELS.items()},
}
