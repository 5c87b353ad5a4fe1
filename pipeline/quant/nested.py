"""Nested grids: codes 0 ... 105 of an activation, of which each channel uses the multiples of one integer.

Grids of 1 to 4 bits over [0, a] have the steps a / 1, a / 3, a / 7 and a / 15, all multiples of a / 105, so that
channels of different bits share one scale and integer kernels sum over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isobit.pipeline.quant.channel_bits import ChannelBitsGrid
from isobit.pipeline.quant.grid import Grid, Tensors, along
from isobit.pipeline.quant.grids import GRIDS

NESTED_BITS = 7
NESTED_CODES = 105  # lcm(1, 3, 7, 15)
_ZERO_BITS = 2 * NESTED_CODES + 1  # a multiple of which every code up to 105 is less than a half


@dataclass(frozen=True)
class NestedGrid(ChannelBitsGrid):
    """All nested grids on one: codes 0 ... 105, for tensors that cannot be negative."""

    bits: int = NESTED_BITS
    signed: bool = False
    limit: int | None = NESTED_CODES

    kind: ClassVar[str] = "nested"
    tensors: ClassVar[frozenset[Tensors]] = frozenset({"activations"})
    negatives: ClassVar[bool] = False

    @classmethod
    def make(cls, bits: int, signed: bool, limit: int | None = None) -> Grid:
        return cls(average=bits)

    @classmethod
    def container_bits(cls, bits: int) -> int:
        return NESTED_BITS

    @classmethod
    def cost(cls, tensors: int, average: float, codes: int, packed: int) -> str:
        return (
            f"{tensors} activation tensors have {average:.2f} bits on average on nested grids "
            f"per channel: their uint8 container costs {codes:,} bytes a sample at run time."
        )

    def multiples(self, channel_bits: Tensor) -> Tensor | None:
        return nested_multiples(channel_bits)

    def settle(self, codes: Tensor, multiples: Tensor | None) -> Tensor:
        return codes if multiples is None else regrid(codes, multiples)


GRIDS.register(NestedGrid.kind)(NestedGrid)


def nested_multiples(bits: Tensor) -> Tensor:
    """The multiple int32 [C] of which codes 0 ... 105 of a channel with `bits` [C] of 0 to 4 bits are: 105 / (2^b - 1).

    All are odd. 0 bits: so large a multiple that every code is rounded to 0.
    """
    steps = (1 << bits.to(torch.int32)) - 1
    return torch.where(bits == 0, _ZERO_BITS, NESTED_CODES // steps.clamp(min=1)).to(torch.int32)


def regrid(codes: Tensor, multiples: Tensor) -> Tensor:
    """Codes [N, C, ...] of any floating type, each on the nearest multiple of its channel's [C].

    There are no ties, because an odd multiple has no integer in the middle between two of its own: the result depends
    on no rounding mode. Of x / scale it gives what rounding to the coarse grid at once would, except at exact ties.
    """
    multiples = along(multiples.to(codes.dtype), 1, codes.dim())
    return torch.round(codes / multiples).mul_(multiples)
