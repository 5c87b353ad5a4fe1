"""All weights of a unit in one flat buffer: what roundings that learn a variable for every weight have in common.

A step is a handful of vector operations, however many layers a unit has: each weight's quantizer answers with a leaf
tensor that shares the buffer, and the gradients of all of them arrive in one buffer too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from isobit.calib.roundings import Weights
from isobit.pipeline.quant.grid import along
from isobit.pipeline.quant.quantizer import Quantizer, stand_in_for


@dataclass(frozen=True)
class _Segment:
    """Where one weight lies in the flat buffer; `shape` is its physical (channels last) shape."""

    quantizer: Quantizer
    begin: int
    end: int
    shape: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """The weight's part of `flat` as a tensor in the logical shape, sharing storage."""
        physical = flat[self.begin : self.end].view(self.shape)
        return physical.permute(0, 3, 1, 2) if len(self.shape) == 4 else physical


def _physical(x: Tensor) -> Tensor:
    """`x` in memory order: channels last for 4-D, which is what convolution kernels want."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous()


class FlatRounding(ABC):
    """Attaches, hardens and counts; what the variables are and how they descend is the subclass's part.

    Args:
        weights: (quantizer with its range set, float weight) of each layer of the unit; at least one.

    Attributes:
        ratio: weight / scale, flat [weights] like all that follow.
        scale, low, high: of each weight its scale, and the lowest and highest code minus zero point.
        values: what the unit sees; `refresh` writes it.
        gradient: of the loss by `values`; `refresh` clears it.
    """

    def __init__(self, weights: Weights) -> None:
        self._segments: list[_Segment] = []
        columns: list[tuple[Tensor, ...]] = []
        begin = 0
        for quantizer, weight in weights:
            columns.append(tuple(_physical(column).reshape(-1) for column in _columns(quantizer, weight.detach())))
            physical = _physical(weight)
            self._segments.append(_Segment(quantizer, begin, begin + physical.numel(), tuple(physical.shape)))
            begin += physical.numel()
        flat, self.scale, self.low, self.high = (torch.cat(column) for column in zip(*columns, strict=True))
        self.ratio = flat / self.scale
        self.values, self.gradient = torch.empty_like(flat), torch.zeros_like(flat)
        self._leaves = [self._leaf(segment) for segment in self._segments]
        self._attachment = ExitStack()

    def _leaf(self, segment: _Segment) -> Tensor:
        leaf = segment.view(self.values).detach().requires_grad_()
        leaf.grad = segment.view(self.gradient)
        return leaf

    def attach(self) -> None:
        """Make the quantizers answer with the present values."""
        self._attachment = stand_in_for(
            (segment.quantizer, lambda weight, leaf=leaf: leaf)
            for segment, leaf in zip(self._segments, self._leaves, strict=True)
        )

    def detach(self) -> None:
        """Let the quantizers round to nearest again."""
        self._attachment.close()

    def arrived(self) -> tuple[Tensor, ...]:
        """The one buffer in which all gradients are."""
        return (self.gradient,)

    @abstractmethod
    def decided(self) -> Tensor:
        """Codes minus zero point as hardening would store them, flat."""

    @property
    def parts(self) -> list[tuple[Quantizer, int]]:
        """Each weight's quantizer and number of elements, in the order of the buffer."""
        return [(segment.quantizer, segment.end - segment.begin) for segment in self._segments]

    def store_scales(self) -> Sequence[Tensor | None]:
        """Store what scales were learned; returns the scale of each weight's decision, None where it is the stored."""
        return [None] * len(self._segments)

    def flipped(self) -> float:
        """Share of weights that hardening sends to another code than nearest rounding."""
        nearest = torch.clamp(torch.round(self.ratio), self.low, self.high)
        return float((self.decided() != nearest).float().mean())

    def harden(self) -> tuple[Tensor, ...]:
        """Store the decided codes in the quantizers and detach from them."""
        flat, found = self.decided(), []
        self.detach()
        for segment, scale in zip(self._segments, self.store_scales(), strict=True):
            quantizer, codes = segment.quantizer, segment.view(flat)
            quantizer.harden(codes + along(quantizer.zero_point, quantizer.spec.axis, codes.dim()), scale)
            found.append(quantizer.codes)
        return tuple(found)


def _columns(quantizer: Quantizer, weight: Tensor) -> tuple[Tensor, ...]:
    """Weight, scale, lowest and highest code minus zero point, all in the shape of the weight."""
    scale, zero_point = quantizer.aligned(weight)
    grid = quantizer.spec.grid
    parts = (weight, scale, grid.qmin - zero_point, grid.qmax - zero_point)
    return tuple(part.expand_as(weight) for part in parts)
