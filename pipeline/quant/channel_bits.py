"""What codebooks and nested grids share: the bits of a recipe are an average, and each channel has bits of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isobit.pipeline.quant.grid import Grid

MAX_CHANNEL_BITS = 4


@dataclass(frozen=True)
class ChannelBitsGrid(Grid):
    """A grid of which each channel uses 2^b codes, with b of 0 to 4 bits chosen by the calibration method.

    Args:
        average: bits of the recipe, the mean of the channels'; the grid itself has more.
    """

    average: int = MAX_CHANNEL_BITS

    own_bits: ClassVar[bool] = True
    most_bits: ClassVar[int] = MAX_CHANNEL_BITS

    @property
    def nominal_bits(self) -> int:
        return self.average

    @property
    def suffix(self) -> str:
        return f" {self.kind}"

    def describe(self, symmetric: bool) -> str:
        return self.kind

    def mean_bits(self, channel_bits: Sequence[int] | None) -> int | float:
        # Channels of one tensor have equally many elements, so their mean is the tensor's.
        return self.bits if channel_bits is None else sum(channel_bits) / len(channel_bits)

    def check_channel_bits(self, bits: Tensor) -> None:
        if bits.dim() != 1 or int(bits.min()) < 0 or int(bits.max()) > MAX_CHANNEL_BITS:
            raise ValueError(f"bits per channel are a vector of 0 to {MAX_CHANNEL_BITS}, not {bits.tolist()}")

    def check_decided(self, codes: Tensor | None, channel_bits: Tensor | None, channels: int | None) -> None:
        """Every channel has bits, and one of a constant with b bits takes at most 2^b values (0 bits: only 0)."""
        if channel_bits is None or channel_bits.numel() != channels:
            given = "no" if channel_bits is None else channel_bits.numel()
            raise ValueError(f"{given} bits for {channels} channels of {self.kind} levels")
        if codes is None:
            return
        for channel, (row, allowed) in enumerate(zip(codes.flatten(1), channel_bits.tolist(), strict=True)):
            values = row.unique()
            if len(values) > 1 << allowed or (allowed == 0 and bool(values.any())):
                raise ValueError(f"channel {channel} has {allowed} bits and {len(values)} values")
