"""Every 64-bit Arm processor: lanes are widened and multiplied one by one, by instructions that the compiler finds.

Nothing here is Arm's own; on x86 the same kernels run as well, slowly, which is how tests compare them.
"""

from __future__ import annotations

from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet


class Neon(InstructionSet):
    """Widening multiplications of a vector of weights with one code at a time."""

    flavour = "lanes"
    lanes = 16
    registers = 7
    dots_per_cycle, loads_per_cycle, latency = 0.125, 1.0, 4
    by_input = True

    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        T, lanes = self.T, self.lanes
        for i in range(self.group):
            factor = T.Cast("int32", T.Cast("int16", codes[code + i]))
            wide = T.Cast(f"int32x{lanes}", T.Cast(f"int16x{lanes}", self.load(weights, weight + i * lanes)))
            sums = sums + wide * self.splat(factor)
        return sums
