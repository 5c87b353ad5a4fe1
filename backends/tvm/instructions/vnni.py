"""`vpdpbusd` of AVX-512 and AVX: four 8-bit products summed into a 32-bit lane, unsigned codes times signed weights."""

from __future__ import annotations

from isobit.backends.tvm.instructions.base import Buffer, Expr, Index
from isobit.backends.tvm.instructions.x86 import X86


class Vnni(X86):
    """AVX-512: the dot product of bytes in 512-bit vectors, in narrower ones for depthwise layers of few channels."""

    flavour = "vnni512"
    lanes = 16
    registers = 30
    dots_per_cycle, loads_per_cycle, latency = 2.0, 2.0, 5
    widths = (16, 8, 4)
    transforms_bytes = True

    def __init__(self, lanes: int | None = None) -> None:
        super().__init__(lanes)
        from tvm.target.codegen import llvm_version_major

        # LLVM 22 gave the intrinsic's operands their true type; before, bytes travelled as int32.
        self._bytes = (llvm_version_major() or 0) >= 22

    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        group = self.splat(self.bits("int32", codes[self.T.Ramp(code, 1, self.group)]))
        return self._products(sums, group, self.load(weights, weight, self.group * self.lanes))

    def tap_dot(self, sums: Expr, quads: Expr, weights: Buffer, weight: Index) -> Expr:
        return self._products(sums, quads, self.load(weights, weight, 4 * self.lanes))

    def _products(self, sums: Expr, codes: Expr, weights: Expr) -> Expr:
        kinds = (f"uint8x{self.group * self.lanes}", f"int8x{self.group * self.lanes}") if self._bytes else \
            (f"int32x{self.lanes}",) * 2
        operands = [self.bits(kind, value) for kind, value in zip(kinds, (codes, weights), strict=True)]
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return self.T.call_llvm_pure_intrin(f"int32x{self.lanes}", name, sums, *operands)


class AvxVnni(Vnni):
    """AVX: the same in 256-bit vectors, with half as many registers. LLVM's intrinsics have the one name for both."""

    flavour = "vnni256"
    lanes = 8
    registers = 14
    depthwise_rows = 2
    widths = (8, 4)
