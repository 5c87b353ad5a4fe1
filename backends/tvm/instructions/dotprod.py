"""Armv8.2: `sdot` sums four products of signed bytes into each 32-bit lane."""

from __future__ import annotations

from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet


class Dotprod(InstructionSet):
    """Codes enter as `code - 128`, which the bias takes back."""

    flavour = "sdot"
    lanes = 4
    registers = 30
    dots_per_cycle, loads_per_cycle, latency = 2.0, 2.0, 3
    signed_input = True
    transforms_bytes = True
    instruction = "llvm.aarch64.neon.sdot.v4i32.v16i8"

    def dot(self, sums: Expr, codes: Buffer, code: Index, weights: Buffer, weight: Index) -> Expr:
        vector = self.load(weights, weight, self.group * self.lanes)
        return self.T.call_llvm_pure_intrin("int32x4", self.instruction, sums, self._group(codes, code), vector)

    def _group(self, codes: Buffer, code: Index) -> Expr:
        """Four codes, the same in every lane."""
        group = self.bits("int32", codes[self.T.Ramp(code, 1, self.group)])
        flipped = self.T.bitwise_xor(group, self.T.int32(0x80808080 - (1 << 32)))
        return self.bits("int8x16", self.splat(flipped))
