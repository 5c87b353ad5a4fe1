"""Every 64-bit Arm processor: lanes are widened and multiplied one by one, by instructions that the compiler finds.

Nothing here is Arm's own; on x86 the same kernels run as well, slowly, which is how tests compare them.
"""

from __future__ import annotations

import numpy as np

from isobit.backends.tvm.instructions.base import SIGNED, Buffer, Expr, Index, InstructionSet


class Neon(InstructionSet):
    """Widening multiplications of a vector of weights with one code at a time."""

    flavour = "lanes"
    lanes = 16
    registers = 7
    dots_per_cycle, loads_per_cycle, latency = 0.125, 1.0, 4
    by_input = True

    def by_bytes(self, largest: int) -> InstructionSet | None:
        return NeonBytes() if largest <= SIGNED else None

    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        T, lanes = self.T, self.lanes
        for i in range(self.group):
            factor = T.Cast("int32", T.Cast("int16", codes[code + i]))
            wide = T.Cast(f"int32x{lanes}", T.Cast(f"int16x{lanes}", self.load(weights, weight + i * lanes)))
            sums = sums + wide * self.splat(factor)
        return sums


class NeonBytes(Neon):
    """Codes of up to 7 bits: products of signed bytes, which `smlal` adds in 16 bits, eight at once."""

    registers = 10
    dots_per_cycle = 0.25
    narrow = True

    def by_bytes(self, largest: int) -> None:
        return None

    @property
    def narrow_lanes(self) -> int:
        return self.lanes

    def by_sum(self, vectors: np.ndarray) -> np.ndarray:
        return np.moveaxis(vectors.reshape(*vectors.shape[:-1], self.group, self.lanes), -1, -2)

    def narrow_dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        kind = f"int16x{self.lanes}"
        for i in range(self.group):
            factor = self.cast("int16", self.bits("int8", codes[code + i]))
            sums = sums + self.cast(kind, self.load(weights, weight + i * self.lanes)) * self.splat(factor)
        return sums

    def widened(self, sums: Expr, narrow: Expr) -> Expr:
        return sums + self.cast(f"int32x{self.lanes}", narrow)
