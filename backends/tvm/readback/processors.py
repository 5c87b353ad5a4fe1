"""What instruction sets ask of constants: how many lanes, in which order, of which type. Facts about kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Processor:
    """An instruction set as constants know it.

    Args:
        lanes: output channels of one vector.
        group: input channels of one dot product.
        by_input: a vector of weights holds one input channel after the other, not one output channel.
        signed: codes are multiplied as `code - 128`.
        transforms: 3 x 3 layers may be transformed, and unpack their weights before anything else.
        adds_16: the largest code whose products may be added in 16 bits; 0 where none are.
        bytes_apart: how layers are multiplied whose products fit bytes; None where that is no other way.
        depthwise: lanes of vectors that one filter a channel may take, the widest first; empty without such kernels.
        taps: type of the weights of those.
        channels_apart: one filter a channel lies so many channels side by side, tap after tap; 0 where it does not.
    """

    lanes: int
    group: int = 4
    by_input: bool = False
    signed: bool = False
    transforms: bool = False
    depthwise: tuple[int, ...] = ()
    taps: str = "int8"
    bytes_apart: Processor | None = None
    channels_apart: int = 0
    adds_16: int = 0

    @property
    def ways(self) -> tuple[Processor, ...]:
        """How a layer may be multiplied."""
        return (self,) if self.bytes_apart is None else (self, self.bytes_apart)


PROCESSORS: dict[str, Processor] = {
    "vnni512": Processor(16, transforms=True, depthwise=(16, 8, 4)),
    "vnni256": Processor(8, transforms=True, depthwise=(8, 4)),
    "avx2": Processor(8, group=2, transforms=True, depthwise=(8, 4), taps="int16",
                      bytes_apart=Processor(8, transforms=True, depthwise=(8, 4), adds_16=255)),
    "sdot": Processor(4, signed=True, transforms=True, channels_apart=16),
    "usdot": Processor(4, transforms=True, channels_apart=16),
    "lanes": Processor(16, by_input=True, channels_apart=16, adds_16=127),
}
