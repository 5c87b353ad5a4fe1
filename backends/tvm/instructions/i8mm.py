"""Armv8.6: `usdot` sums four products of unsigned codes and signed weights into each 32-bit lane."""

from __future__ import annotations

from isobit.backends.tvm.instructions.base import Buffer, Expr, Index
from isobit.backends.tvm.instructions.dotprod import Dotprod


class I8mm(Dotprod):
    """Vectors as with `sdot`; codes enter as they are."""

    flavour = "usdot"
    instruction = "llvm.aarch64.neon.usdot.v4i32.v16i8"
    signed_input = False

    def _group(self, codes: Buffer, code: Index) -> Expr:
        return self.bits("uint8x16", self.splat(self.bits("int32", codes[self.T.Ramp(code, 1, self.group)])))
