"""Codes of activations in their containers: grids, conversions from and to floats, tables of pairs.

Containers are uint8 always: `container code = grid code - qmin`, so every grid starts at 0 in its container. Nested
levels are one more step after any kernel, on the integers: a multiple per channel of a grid that starts at 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from isobit.backends.regions import Region
from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.nodes import bound_args, op_name, tensor_shape
from isobit.pipeline.graph.quantized_tensors import quantizer_at
from isobit.pipeline.quant.nested import regrid
from isobit.pipeline.quant.quantizer import Quantizer


@dataclass(frozen=True)
class CodeGrid:
    """Where the codes of one activation tensor stand in their uint8 container.

    Args:
        scale: float32, rank 0.
        zero_point: in the container, 0 ... 255.
        low, high: least and largest code that may occur; bits below 8 and fused activations narrow them.
        multiples: int32 [C, 1, ...], shaped to broadcast over samples, of which the codes of each channel are multiples
            (nested levels); None for all codes, and where codes have settled already.
    """

    scale: Tensor
    zero_point: int
    low: int
    high: int
    multiples: Tensor | None = None

    def settle(self, codes: Tensor) -> Tensor:
        """Codes [N, C, ...] of a kernel brought to the ends of the grid, and to its channels' multiples; in place."""
        codes = codes.clamp_(self.low, self.high)
        return codes if self.multiples is None else regrid(codes, self.multiples.to(codes.device).flatten())

    def code_of(self, value: float) -> int:
        """Container code of one real number, by QuantizeLinear's formula, saturated to 0 ... 255."""
        steps = torch.round(torch.tensor(value, dtype=torch.float32) / self.scale) + self.zero_point
        return int(steps.clamp(0, 255))


@dataclass(frozen=True)
class Codes:
    """A quantized activation: integers held in float32 (exact), and their grid."""

    codes: Tensor
    grid: CodeGrid

    @property
    def centered(self) -> Tensor:
        """`code - zero_point`, float32; the codes themselves where that is 0."""
        return self.codes - self.grid.zero_point if self.grid.zero_point else self.codes


Value = Codes | Tensor


def on_grid(value: Value) -> Codes:
    """A value that an integer kernel reads; raises TypeError for one in float, which no region hands to a kernel.

    Integers are their own codes.
    """
    if isinstance(value, Tensor) and not value.is_floating_point():
        return Codes(value, CodeGrid(torch.tensor(1.0), 0, 0, 0))
    if not isinstance(value, Codes):
        raise TypeError("an integer kernel was given values in float")
    return value


def container(quantizer: Quantizer) -> CodeGrid:
    """The uint8 container of an activation quantizer's grid."""
    grid = quantizer.spec.grid
    scale = quantizer.scale.detach().to("cpu", torch.float32).reshape(())
    return CodeGrid(scale, int(quantizer.zero_point) - grid.qmin, 0, grid.qmax - grid.qmin)


def output_grid(graph: fx.GraphModule, region: Region) -> CodeGrid | None:
    """Grid of the region's result, with multiples, ends narrowed by its activations; None if in float.

    Clamping codes equals clamping values, because quantizing is monotone: `Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b))`.
    """
    if region.quantizer is None:
        return None
    quantizer = quantizer_at(graph, region.quantizer)
    grid = container(quantizer)
    low, high = grid.low, grid.high
    for node in () if region.kind == "float" else _last_clamps(region):
        least, most = activation_range(node)
        first, last = grid.code_of(least), grid.code_of(most)
        low, high = min(max(low, first), last), min(max(high, first), last)
    multiples = quantizer.multiples
    if multiples is not None:
        multiples = multiples.detach().cpu().reshape(-1, *[1] * (len(tensor_shape(region.quantizer)) - 2))
    return CodeGrid(grid.scale, grid.zero_point, min(low, grid.high), min(high, grid.high), multiples)


def _last_clamps(region: Region) -> list[fx.Node]:
    """The activations at the end of a region, after which nothing else changes a value."""
    found = itertools.takewhile(lambda node: op_name(node) in ACTIVATIONS, reversed((region.anchor, *region.absorbed)))
    return list(found)[::-1]


def activation_range(node: fx.Node) -> tuple[float, float]:
    """Least and largest value of a relu or hardtanh."""
    if op_name(node) == "relu":
        return 0.0, float("inf")
    arguments = bound_args(node)
    return float(arguments["min_val"]), float(arguments["max_val"])


def dequantized(value: Value) -> Tensor:
    """float32 values, `scale * (code - zero_point)`; floats pass."""
    if not isinstance(value, Codes):
        return value
    # A code that was rounded to -0 is 0 in a runtime's integers, and so is its value.
    return (value.centered + 0.0) * value.grid.scale.to(value.codes.device)


def all_pairs(function: Callable[[Codes, Codes], Tensor], a: CodeGrid, b: CodeGrid) -> Tensor:
    """float32 [65536]: an elementwise `function` of every code of `a` with every code of `b`, for `looked_up`."""
    codes = torch.arange(256, dtype=torch.float32)
    return function(Codes(codes.reshape(256, 1), a), Codes(codes.reshape(1, 256), b)).float().flatten()


def looked_up(table: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What `all_pairs` holds for codes `a` and `b`, which may broadcast: much faster than a formula in float64."""
    index = torch.add(b, a, alpha=256).to(torch.int32)
    return table.to(index.device).index_select(0, index.flatten()).view(index.shape)


def stored(codes: Tensor) -> Tensor:
    """Codes 0 ... 255 in any dtype as uint8; by way of int16, which is twice as fast as from float32 at once."""
    return codes.to(torch.int16).to(torch.uint8)


def quantize_float(x: Tensor, grid: CodeGrid) -> Tensor:
    """QuantizeLinear in float32: `round_half_even(x / scale) + zero_point`, saturated to uint8."""
    steps = torch.round(x.float() / grid.scale.to(x.device)) + grid.zero_point
    return steps.clamp(0, 255)
