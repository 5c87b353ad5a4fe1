"""Exact 32-bit sums of convolutions and linear layers on codes, and the integers of a layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from isobit.backends.execution.codes import CodeGrid, Codes
from isobit.pipeline.graph.nodes import bound_args, pair
from isobit.pipeline.graph.quantized_tensors import bias_quantizer_at, quantizer_at
from isobit.pipeline.graph.sums import layer_sums
from isobit.pipeline.quant.quantizer import bias_scale

_FLOAT32_EXACT = 1 << 24
_MOST_CUTS = 8  # float32 sums that are faster together than one in float64
Cuts = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layer:
    """The integers of a convolution or linear layer.

    Args:
        weight: int8-valued codes with zero point 0, in float32.
        bias: int32-valued codes in float64, [K]; None without bias.
        scale: float32 [K], of the weight.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    _cuts: dict[tuple[int, bool], Cuts | None] = field(default_factory=dict, repr=False, compare=False)

    def cuts(self, largest: int, dense: bool) -> Cuts | None:
        """Runs of input channels whose products float32 sums without rounding, in any order; None where float64 must.

        Args:
            largest: magnitude of an input.
            dense: the input channels may be cut; one run or none otherwise.
        """
        if (largest, dense) not in self._cuts:
            self._cuts[largest, dense] = _find_cuts(self.weight, largest, dense)
        return self._cuts[largest, dense]


def _find_cuts(weight: Tensor, largest: int, dense: bool) -> Cuts | None:
    # By output and input channel, what no partial sum exceeds.
    bounds = weight.double().abs().reshape(*weight.shape[:2], -1).sum(2) * largest
    channels = bounds.shape[1]
    for parts in range(1, (min(_MOST_CUTS, channels) if dense else 1) + 1):
        ends = [channels * place // parts for place in range(parts + 1)]
        if all(float(bounds[:, start:end].sum(1).max()) < _FLOAT32_EXACT for start, end in pairwise(ends)):
            return tuple(pairwise(ends))
    return None


def layer_of(graph: fx.GraphModule, node: fx.Node) -> Layer:
    """Weight and bias integers of a conv2d or linear node."""
    arguments = bound_args(node)
    quantizer = quantizer_at(graph, arguments["weight"])
    codes = quantizer.decided.detach().cpu()
    zero_point = quantizer.zero_point.detach().cpu().reshape(-1, *[1] * (codes.dim() - 1))
    scale = quantizer.scale.detach().cpu().float().reshape(-1).expand(codes.shape[0]).contiguous()
    bias = None
    if arguments["bias"] is not None:
        bias = bias_quantizer_at(graph, arguments["bias"]).decided.detach().cpu().double()
    return Layer((codes - zero_point).float(), bias, scale)


def explicit_padding(padding: Any, kernel: tuple[int, ...], dilation: Any) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of conv2d's `padding` argument: one or two integers, `same` or `valid`."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        total = [pair(dilation)[axis] * (kernel[axis] - 1) for axis in (0, 1)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    rows, columns = pair(padding)
    return rows, columns, rows, columns


def window_sum(values: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Sums of all windows, each element added in row order (float32 sums depend on it)."""
    height = (values.shape[2] - kernel[0]) // stride[0] + 1
    width = (values.shape[3] - kernel[1]) // stride[1] + 1
    total = values.new_zeros(values.shape[0], values.shape[1], height, width)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows = slice(row, row + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(column, column + stride[1] * (width - 1) + 1, stride[1])
            total = total + values[:, :, rows, columns]
    return total


@dataclass(frozen=True)
class Sums:
    """32-bit sums on codes: exact products, and the bias that is still to be added.

    Args:
        products: integers in float32 or float64.
        bias: as of `Layer`.
        axis: of the layer's channels.
        beside: integers of a second tensor, without their zero point, that the kernel adds on a scale of their own.
        elements: of a mean, how many codes each sum holds.
    """

    products: Tensor
    bias: Tensor | None = None
    axis: int = 1
    beside: Tensor | None = None
    elements: int = 1

    def exact(self) -> Tensor:
        """The sums as integers in float64."""
        total = self.products.double()
        return total if self.bias is None else total + self._along(self.bias.to(total))

    def integers(self) -> Tensor:
        """The sums as int64."""
        total = self.products.long()
        return total if self.bias is None else total.add_(self._along(self.bias.to(total)))

    def rounded(self) -> Tensor:
        """The sums as a runtime converts them: each rounded to float32 once; a tensor of its own."""
        if self.bias is None:
            return self.products.float().add_(0.0)  # an integer 0 has no sign, the product 0 * -1 of floats has
        bias = self.bias.to(self.products.device)
        if self.products.dtype is not torch.float32:
            return (self.products + self._along(bias)).float()
        # A float32 sum of two float32 numbers is rounded once; a bias that float32 cannot hold takes the long way.
        narrow = bias.float()
        long = (narrow.double() != bias).nonzero()[:, 0]
        if not len(long):
            return self.products.add_(self._along(narrow))
        wide = (self.products.index_select(self.axis, long).double() + self._along(bias[long])).float()
        return self.products.add_(self._along(narrow)).index_copy_(self.axis % self.products.dim(), long, wide)

    def _along(self, values: Tensor) -> Tensor:
        shape = [1] * self.products.dim()
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True)
class SumRange:
    """Which sums the codes of a kernel's inputs can make: all that are, and integers between them that may not be.

    Args:
        least, largest: int64, of the shape of one sample's sums; axes along which nothing differs may be 1.
        axis, elements: as of `Sums`.
        beside: the grid of `Sums.beside`; None without.
        crossing: the axis along which integers beside go, in a range that is crossed with them.
    """

    least: Tensor
    largest: Tensor
    axis: int = 1
    elements: int = 1
    beside: CodeGrid | None = None
    crossing: int | None = None

    def sums(self, totals: Tensor, beside: Tensor | None = None) -> Sums:
        """Sums of these totals, int64 [n, ...]."""
        return Sums(totals.double(), None, self.axis, beside, self.elements)


def crossed(reach: SumRange, beside: Tensor) -> tuple[SumRange, Tensor]:
    """The same sums with each of the integers `beside` [R] in turn, and these: both get an axis of their own."""
    shape = (1, -1, 1) if reach.axis == 1 else (-1, 1)
    values = beside.reshape(shape)
    crossing = torch.broadcast_shapes(reach.least.shape, values.shape)
    least, largest = (end.expand(crossing) for end in (reach.least, reach.largest))
    return replace(reach, least=least, largest=largest, crossing=int(reach.axis == 1)), values[None]


def one_range(least: int, largest: int, rank: int, elements: int = 1) -> SumRange:
    """The same sums everywhere, in a tensor of `rank` axes."""
    shape = (1,) * (rank - 1)
    return SumRange(torch.full(shape, least, dtype=torch.int64), torch.full(shape, largest, dtype=torch.int64),
                    elements=elements)


def layer_range(layer: Layer, grids: Sequence[CodeGrid]) -> SumRange:
    """The sums of a convolution or linear layer; `grids`: of its input, and of what is added beside its sum."""
    least, largest = layer_sums(layer.weight, *centered_ends(grids[0]), layer.bias)
    image = len(layer.weight.shape) == 4
    shape = (-1, 1, 1) if image else (-1,)
    return SumRange(least.reshape(shape), largest.reshape(shape), 1 if image else -1,
                    beside=grids[1] if len(grids) == 2 else None)


def layer_value(layer: Layer, x: CodeGrid, sums: Sums) -> Tensor:
    """What the sums of a layer stand for, float64: one unit of a product is exact, one of the bias is float32's."""
    unit, total = x.scale.double() * layer.scale.double(), sums.exact()
    shape = [1] * total.dim()
    shape[sums.axis] = -1
    value = total * unit.reshape(shape)
    if layer.bias is None:
        return value
    return value + (layer.bias * (bias_scale(x.scale, layer.scale).double() - unit)).reshape(shape)


def centered_ends(grid: CodeGrid) -> tuple[int, int]:
    """Least and largest code of a tensor without its zero point, which padding always brings in."""
    return min(grid.low - grid.zero_point, 0), max(grid.high - grid.zero_point, 0)


def conv2d_sums(x: Codes, layer: Layer, node: fx.Node) -> Sums:
    """32-bit sums of a convolution on codes, [N, K, H, W]."""
    arguments = bound_args(node)
    dilation, groups = pair(arguments["dilation"]), arguments["groups"]
    top, left, bottom, right = explicit_padding(arguments["padding"], tuple(layer.weight.shape[2:]), dilation)
    values, inside = x.centered, (top, left)
    if inside != (bottom, right):
        values, inside = F.pad(values, (left, right, top, bottom)), (0, 0)

    def convolve(values: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(values, weight, None, pair(arguments["stride"]), inside, dilation, groups)

    return Sums(_products(values, x.grid, layer, convolve, 1, groups == 1), layer.bias, 1)


def linear_sums(x: Codes, layer: Layer) -> Sums:
    """32-bit sums of a linear layer on codes, [N, ..., K]."""
    return Sums(_products(x.centered, x.grid, layer, F.linear, -1, True), layer.bias, -1)


def _products(
    values: Tensor, grid: CodeGrid, layer: Layer, product: Callable[[Tensor, Tensor], Tensor], axis: int, dense: bool
) -> Tensor:
    """`product(values, weight)` without rounding: float32 holds integers below 2^24, float64 the rest.

    Args:
        values: centred codes, input channels along `axis`; any uint8 code may occur.
        dense: every output sees every input channel, so that a sum too wide for float32 can be cut into such that fit.
    """
    weight = layer.weight.to(values.device)
    # GPUs may run float32 products in TF32, so exactness is only claimed for the CPU.
    cuts = layer.cuts(max(grid.zero_point, 255 - grid.zero_point), dense) if values.device.type == "cpu" else None
    if cuts is None:
        return product(values.double(), weight.double())
    values = values.float()
    if len(cuts) == 1:
        return product(values, weight)
    parts = (product(values.narrow(axis, start, end - start), weight[:, start:end]) for start, end in cuts)
    return functools.reduce(Tensor.add_, (part.double() for part in parts))
