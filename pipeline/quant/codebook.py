"""Codebooks: each output channel of a weight uses 2^b int8 codes of its own, which the calibration method chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isobit.pipeline.quant.channel_bits import ChannelBitsGrid
from isobit.pipeline.quant.grid import Grid, Tensors
from isobit.pipeline.quant.grids import GRIDS

CODEBOOK_BITS = 8


@dataclass(frozen=True)
class CodebookGrid(ChannelBitsGrid):
    """The int8 codes in which codebooks lie; narrow, because every codebook has both signs.

    Before the codes of a weight are decided it is rounded as on the uniform grid of these integers.
    """

    bits: int = CODEBOOK_BITS
    signed: bool = True
    narrow: bool = True

    kind: ClassVar[str] = "multibit"
    tensors: ClassVar[frozenset[Tensors]] = frozenset({"weights"})
    keeps_values: ClassVar[bool] = True

    @classmethod
    def make(cls, bits: int, signed: bool, limit: int | None = None) -> Grid:
        return cls(limit=limit, average=bits)

    @classmethod
    def container_bits(cls, bits: int) -> int:
        return CODEBOOK_BITS

    @classmethod
    def check_rule(cls, bits: int | None, symmetric: bool, per_channel: bool) -> None:
        super().check_rule(bits, symmetric, per_channel)
        if not (symmetric and per_channel):
            raise ValueError(f"levels: {cls.kind} stands beside symmetric: true and granularity: per_channel")

    @classmethod
    def cost(cls, tensors: int, average: float, codes: int, packed: int) -> str:
        return (
            f"{tensors} weight tensors have {average:.2f} bits on average as codebooks per channel: "
            f"{packed:,} bytes packed, {codes:,} in the int8 container that integer kernels read."
        )


GRIDS.register(CodebookGrid.kind)(CodebookGrid)
