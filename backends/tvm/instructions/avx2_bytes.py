"""AVX2 by bytes: `vpmaddubsw` multiplies 32 pairs at once and adds neighbours, in 16 bits that a sum must fit.

It saturates beyond them: it is for layers whose codes and weights stay within, which `kernels.layers.narrow` finds out.
"""

from __future__ import annotations

from isobit.backends.tvm.instructions.base import Buffer, Expr, Index
from isobit.backends.tvm.instructions.x86 import X86

# By the number of int32 lanes: products of bytes, and of words.
PRODUCTS = {
    4: ("llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd"),
    8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
}


class Avx2Bytes(X86):
    """Codes and weights enter as bytes; sums of a run of dot products stay in 16 bits, two of them for each lane."""

    flavour = "avx2"
    lanes = 8
    registers = 14
    dots_per_cycle, loads_per_cycle, latency = 1.5, 2.0, 1
    instructions_per_dot = 2
    widths = (8, 4)
    # Narrow: four are a little faster a row; five leave fewer rows over for some heights (25: none, and four three).
    depthwise_rows, narrow_rows = 3, (4, 5)
    narrow = True
    transforms_bytes = True

    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        return self.widened(sums, self._pairs(self._group(codes, code), weights, weight))

    def narrow_dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        return sums + self._pairs(self._group(codes, code), weights, weight)

    def tap_dot(self, sums: Expr, quads: Expr, weights: Buffer, weight: Index) -> Expr:
        return self.widened(sums, self._pairs(quads, weights, weight))

    def narrow_tap_dot(self, sums: Expr, pairs: Expr, weights: Buffer, weight: Index) -> Expr:
        return sums + self._pairs(pairs, weights, weight)

    def widened(self, sums: Expr, narrow: Expr) -> Expr:
        ones = self.splat(self.T.int16(1), 2 * self.lanes)
        return sums + self.T.call_llvm_pure_intrin(f"int32x{self.lanes}", PRODUCTS[self.lanes][1], narrow, ones)

    def _group(self, codes: Buffer, code: Index) -> Expr:
        """Four codes, the same for every lane."""
        return self.splat(self.bits("int32", codes[self.T.Ramp(code, 1, self.group)]))

    def _pairs(self, codes: Expr, weights: Buffer, weight: Index) -> Expr:
        """Sums of two products each, int16."""
        count = self.group * self.lanes
        return self.T.call_llvm_pure_intrin(
            f"int16x{2 * self.lanes}", PRODUCTS[self.lanes][0], self.bits(f"uint8x{count}", codes),
            self.load(weights, weight, count),
        )
