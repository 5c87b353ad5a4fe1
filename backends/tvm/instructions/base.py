"""What kernels may say in every instruction set: vectors of int32 sums and of bytes, as expressions of TVM's tensor IR.

Kernels are written once. Dot products, the rescaling multiplication and the packing of four vectors of sums into bytes
are looked up here, because these three decide the speed and no compiler finds them by itself. What a subclass does not
override the compiler vectorises as it can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, Self, TypeAlias

import numpy as np

SIGNED = 127  # codes up to here are signed bytes as well, which widening multiplications take as they are
PACK = 4  # vectors of sums that become one vector of bytes


class Expr(Protocol):
    """A number or a vector of TVM's tensor IR. TVM's own classes leave the types of their operators open."""

    def __add__(self, other: Index, /) -> Expr: ...
    def __radd__(self, other: int, /) -> Expr: ...
    def __sub__(self, other: Index, /) -> Expr: ...
    def __mul__(self, other: Index, /) -> Expr: ...
    def __rmul__(self, other: int, /) -> Expr: ...
    def __truediv__(self, other: Index, /) -> Expr: ...
    def __floordiv__(self, other: int, /) -> Expr: ...
    def __mod__(self, other: int, /) -> Expr: ...
    def __lt__(self, other: Index, /) -> Expr: ...
    def __ge__(self, other: Index, /) -> Expr: ...


Index: TypeAlias = int | Expr


class Buffer(Protocol):
    """Memory of a kernel; a flat one is read by one index, or by a vector of them."""

    def __getitem__(self, index: Index | tuple[Index, ...], /) -> Expr: ...


class InstructionSet(ABC):
    """Vectors of `lanes` int32 and the operations on them.

    Attributes:
        flavour: its name in device profiles.
        lanes: int32 lanes of one vector of sums.
        registers: for sums and one vector of weights for each; the rest is for codes and temporaries.
        group: input channels that one dot product takes.
        dots_per_cycle, loads_per_cycle: of a typical processor; only tile sizes depend on them.
        instructions_per_dot: operands in memory are no instructions of their own.
        latency: cycles of a dependent dot product.
        operand: type of weights in the inner loop; int16 means that codes, too, are widened before it.
        by_input: a vector of weights holds one input channel after the other, not one output channel.
        winograd: 3 x 3 layers are transformed: 16 products for 4 pixels instead of 36.
        transforms_bytes: they are where transformed codes and weights fit bytes.
        signed_input: codes enter dot products as `code - 128`.
        narrow: it has `narrow_dot`, for layers whose sums fit 16 bits.
        narrow_lanes: sums of 16 bits beside one vector of sums.

    Args:
        lanes: instead of the widest vector's.
    """

    flavour: str
    lanes: int
    registers: int
    group = 4
    dots_per_cycle: float
    loads_per_cycle: float
    latency: int
    instructions_per_dot = 1
    operand = "int8"
    by_input = False
    signed_input = False
    winograd = False
    transforms_bytes = False
    narrow = False

    def __init__(self, lanes: int | None = None) -> None:
        self.T = import_module("tvm.script.tirx")
        self.lanes = lanes or self.lanes

    @property
    def operand_bytes(self) -> int:
        """Bytes of one weight in the inner loop."""
        return 1 if self.operand == "int8" else 2

    @property
    def narrow_lanes(self) -> int:
        return 2 * self.lanes

    def of(self, lanes: int) -> Self:
        """The same instruction set with vectors of another width."""
        return type(self)(lanes)

    def by_bytes(self, largest: int) -> InstructionSet | None:
        """The set for layers whose products are so small that they may be added in 16 bits; None where there is none.

        Args:
            largest: code of the layer's input.
        """
        return None

    def by_sum(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of weights [..., bytes] as [..., sums of 16 bits, weights whose products each adds]."""
        return vectors.reshape(*vectors.shape[:-1], -1, 2)

    # --- vectors ------------------------------------------------------------------------------------------------------

    def load(self, buffer: Buffer, index: Index, lanes: int | None = None) -> Expr:
        """`lanes` neighbours of a flat buffer; of int32, one vector."""
        lanes = lanes or self.lanes
        return buffer[index] if lanes == 1 else buffer[self.T.Ramp(index, 1, lanes)]

    def bits(self, kind: str, value: Expr) -> Expr:
        """The same bits as another type."""
        return self.T.reinterpret(kind, value)

    def cast(self, kind: str, value: Expr) -> Expr:
        """The same number as another type."""
        return self.T.Cast(kind, value)

    def splat(self, value: Expr, lanes: int | None = None) -> Expr:
        """One number in every lane."""
        lanes = lanes or self.lanes
        return value if lanes == 1 else self.T.Broadcast(value, lanes)

    def number(self, kind: str, value: int) -> Expr:
        """A constant of a scalar type."""
        return getattr(self.T, kind)(value)

    def widen(self, codes: Expr) -> Expr:
        """uint8 -> int32, lane by lane."""
        return self.cast(f"int32x{self.lanes}", codes)

    def real(self, sums: Expr) -> Expr:
        """int32 -> float32, lane by lane."""
        return self.cast(f"float32x{self.lanes}", sums)

    def smaller(self, a: Index, b: Index) -> Expr:
        """The smaller one."""
        return self.T.min(a, b)

    def larger(self, a: Index, b: Index) -> Expr:
        """The larger one."""
        return self.T.max(a, b)

    def equal(self, a: Expr, b: Index) -> Expr:
        """Whether two numbers are equal."""
        return self.T.EQ(a, b)

    def both(self, a: Expr, b: Expr) -> Expr:
        """Whether both conditions hold."""
        return self.T.And(a, b)

    def choose(self, condition: Expr, value: Expr, other: Expr) -> Expr:
        """`value` if the condition holds, else `other`; only that one is read."""
        return self.T.if_then_else(condition, value, other)

    def quantize(self, values: Expr, scale: Expr, zero_point: Expr) -> Expr:
        """float32 -> codes as int32; scale (bits of a float32) and zero point int32."""
        T, lanes = self.T, "" if self.lanes == 1 else f"x{self.lanes}"
        real, whole = f"float32{lanes}", f"int32{lanes}"
        limits = [T.Cast(real, self.splat(T.int32(end)) - zero_point) for end in (0, 255)]
        steps = T.nearbyint(values / T.reinterpret(real, scale))
        return T.Cast(whole, T.min(T.max(steps, limits[0]), limits[1])) + zero_point

    def join(self, codes: Sequence[Expr]) -> Expr:
        """Up to four vectors of codes as the bytes of int32 lanes."""
        joined = codes[0]
        for place, code in enumerate(codes[1:], 1):
            joined = self.T.bitwise_or(joined, self.T.shift_left(code, self.splat(self.T.int32(8 * place))))
        return self.bits(f"uint8x{4 * self.lanes}", joined)

    # --- weights ------------------------------------------------------------------------------------------------------

    def unpack(
        self, buffer: Buffer, base: Index, fields: Sequence[tuple[int, int, int, int]], unit: int,
        offset: Expr | None,
    ) -> Expr:
        """One vector of weights from packed bytes, as `operand`.

        Args:
            buffer, base: the packed group of vectors.
            fields: see `weights.fields`.
            unit: bytes of a vector.
            offset: what packing added to every byte, int32 vector; None for weights of 8 bits.
        """
        if offset is None:
            return self.cast(f"{self.operand}x{unit}", self.load(buffer, base, unit))
        kind, parts = f"uint8x{unit}", []
        for vector, place, width, done in fields:
            byte = self.bits(kind, self.load(buffer, base + vector * unit, unit))
            field = self.T.bitwise_and(self.T.shift_right(byte, self.splat(self.T.uint8(place), unit)),
                                       self.splat(self.T.uint8(2**width - 1), unit))
            parts.append(self.T.shift_left(field, self.splat(self.T.uint8(done), unit)))
        code = parts[0]
        for part in parts[1:]:
            code = self.T.bitwise_or(code, part)
        return self.cast(f"{self.operand}x{unit}", self.bits(f"int8x{unit}", code - self.bits(kind, offset)))

    # --- dot products -------------------------------------------------------------------------------------------------

    @abstractmethod
    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        """sums[lane] + the products of a group of neighbouring codes with each lane's group of weights.

        Args:
            sums: int32 vector.
            codes, code: where the group lies.
            weights, weight: where the vector of weights lies, in the order of `weights.lane_order`.
        """

    def narrow_dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        """As `dot`, to `narrow_lanes` sums of 16 bits; raises TypeError where no instruction does that."""
        raise TypeError(f"{self.flavour} adds no products in 16 bits")

    def widened(self, sums: Expr, narrow: Expr) -> Expr:
        """sums[lane] + the sums of 16 bits that belong to the lane."""
        raise TypeError(f"{self.flavour} adds no products in 16 bits")

    # --- requantization -----------------------------------------------------------------------------------------------

    def rescale(self, terms: Sequence[tuple[Expr, Expr, Expr]], offset: Expr, shift: Expr, half: bool) -> Expr:
        """((sum of value * multiplier [+ 2^31]) >> 32, plus offset) >> shift, lane by lane.

        Args:
            terms: (values, multipliers, multipliers of the lanes one further), int32 vectors.
            offset: upper halves of the 64-bit offset, int32 vector.
            shift: what remains beyond 32, int32 vector.
            half: the lower half of the offset is 2^31; else it is 0.
        """
        wide = f"int64x{self.lanes}"
        products = [self.cast(wide, value) * self.cast(wide, multiplier) for value, multiplier, _ in terms]
        total = self.total(products, half, self.lanes)
        high = self.cast(f"int32x{self.lanes}", self.upper(total, self.lanes))
        return self.T.shift_right(high + offset, shift)

    def lift(self, values: Expr, lift: Expr) -> Expr:
        """values << lift, lane by lane."""
        return self.T.shift_left(values, lift)

    def shift_right(self, sums: Expr, places: int) -> Expr:
        """int32 vector >> places, which keeps the sign."""
        return self.T.shift_right(sums, self.splat(self.T.int32(places)))

    def total(self, products: Sequence[Expr], half: bool, lanes: int) -> Expr:
        """Sum of int64 vectors, plus 2^31 with `half`."""
        total = products[0]
        for product in products[1:]:
            total = total + product
        return total + self.splat(self.T.int64(1 << 31), lanes) if half else total

    def upper(self, wide: Expr, lanes: int) -> Expr:
        """Upper halves of int64 lanes, in the lower ones."""
        return self.T.shift_right(wide, self.splat(self.T.int64(32), lanes))

    # --- bytes --------------------------------------------------------------------------------------------------------

    def pack(self, sums: Sequence[Expr]) -> Expr:
        """Vectors of sums, saturated to 0 ... 255 and laid side by side as bytes."""
        lanes = len(sums) * self.lanes
        joined = sums[0] if len(sums) == 1 else self.T.Shuffle(list(sums), list(range(lanes)))
        low, high = self.splat(self.T.int32(0), lanes), self.splat(self.T.int32(255), lanes)
        return self.cast(f"uint8x{lanes}", self.T.min(self.T.max(joined, low), high))

    def clip(self, codes: Expr, low: Expr, high: Expr) -> Expr:
        """Bytes between two vectors of bytes."""
        return self.T.min(self.T.max(codes, low), high)
