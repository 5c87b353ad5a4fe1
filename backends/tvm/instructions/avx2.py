"""AVX2: `vpmaddwd` sums pairs of int16 products, exactly, for any codes and weights."""

from __future__ import annotations

from isobit.backends.tvm.instructions.avx2_bytes import Avx2Bytes
from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.instructions.x86 import X86


class Avx2(X86):
    """Codes and weights are widened to int16 before the inner loop; 3 x 3 layers are transformed."""

    flavour = "avx2"
    lanes = 8
    registers = 14
    group = 2
    dots_per_cycle, loads_per_cycle, latency = 1.5, 2.0, 1
    instructions_per_dot = 2
    operand = "int16"
    winograd = True
    widths = (8, 4)
    taps = "int16"
    depthwise_rows = 2

    def by_bytes(self, largest: int) -> InstructionSet:
        return Avx2Bytes()

    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        group = self.bits("int16x16", self.splat(self.bits("int32", codes[self.T.Ramp(code, 1, self.group)])))
        return self._products(sums, group, self.load(weights, weight, self.group * self.lanes))

    def tap_dot(self, sums: Expr, quads: Expr, weights: Buffer, weight: Index) -> Expr:
        """Bytes 0 and 2 of `quads` as int16, then bytes 1 and 3."""
        lanes = 2 * self.lanes
        even = self.bits(f"int16x{lanes}", self.T.bitwise_and(quads, self.splat(self.T.int32(0x00FF00FF))))
        odd = self.T.shift_right(self.bits(f"uint16x{lanes}", quads), self.splat(self.T.uint16(8), lanes))
        sums = self._products(sums, even, self.load(weights, weight, lanes))
        return self._products(sums, self.bits(f"int16x{lanes}", odd), self.load(weights, weight + lanes, lanes))

    def _products(self, sums: Expr, codes: Expr, weights: Expr) -> Expr:
        name = "llvm.x86.avx2.pmadd.wd" if self.lanes == 8 else "llvm.x86.sse2.pmadd.wd"
        return sums + self.T.call_llvm_pure_intrin(f"int32x{self.lanes}", name, codes, weights)
