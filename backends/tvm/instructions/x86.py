"""What AVX2 and AVX-512 share: requantization, and bytes of pixels side by side.

* 32 x 32 -> 64-bit products exist for even lanes only: even and odd lanes are multiplied apart, and the upper halves,
  which are all that a shift of 32 or more leaves, put together by one permutation;
* `vpackssdw` and `vpackuswb` saturate while they pack, so clipping to a byte costs nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from isobit.backends.tvm.instructions.base import PACK, Buffer, Expr, Index, InstructionSet

# Saturating packs by the number of int32 lanes.
PACKS = {
    4: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
}


class X86(InstructionSet):
    """Even and odd lanes multiplied apart; saturating packs.

    Attributes:
        widths: int32 lanes of vectors in depthwise kernels, which interleave pixels into dot products.
        depthwise_rows: output rows of their tiles.
        narrow_rows: what those may be where sums are of 16 bits.
        taps: type of their weights.
    """

    widths: tuple[int, ...]
    depthwise_rows = 4
    narrow_rows: tuple[int, ...] = ()
    taps = "int8"

    def rescale(self, terms: Sequence[tuple[Expr, Expr, Expr]], offset: Expr, shift: Expr, half: bool) -> Expr:
        lanes = self.lanes // 2
        # Multipliers are always taken from even lanes: LLVM moves that extraction out of loops, and back beside the
        # multiplication, as vpmuldq needs it, in this form only.
        pairs = [[self.bits(f"int64x{lanes}", value) for value in term] for term in terms]
        even = self.total([self._even(value) * self._even(own) for value, own, _ in pairs], half, lanes)
        odd = self.total([self.upper(value, lanes) * self._even(further) for value, _, further in pairs], half, lanes)
        lower = self.T.bitwise_and(self.upper(even, lanes), self.splat(self.T.int64(0xFFFFFFFF), lanes))
        upper = self.T.bitwise_and(odd, self.splat(self.T.int64(-(1 << 32)), lanes))
        high = self.bits(f"int32x{self.lanes}", self.T.bitwise_or(lower, upper))
        return self.T.shift_right(high + offset, shift)

    def _even(self, wide: Expr) -> Expr:
        """The lower halves, sign-extended: `vpmuldq` reads nothing else, so these shifts disappear."""
        lanes = self.lanes // 2
        return self.upper(self.T.shift_left(wide, self.splat(self.T.int64(32), lanes)), lanes)

    def pack(self, sums: Sequence[Expr]) -> Expr:
        if len(sums) != PACK:
            return super().pack(sums)
        packed = self.bits(f"int32x{self.lanes}", self.pack_in_place(sums))
        groups = self.lanes // PACK
        order = [group * PACK + vector for vector in range(PACK) for group in range(groups)]
        return self.bits(f"uint8x{PACK * self.lanes}", self.T.Shuffle([packed], order))

    def pack_in_place(self, sums: Sequence[Expr]) -> Expr:
        """Four vectors of sums as bytes in the order of the instructions: within 128 bits, four of each vector."""
        signed, unsigned = PACKS[self.lanes]
        half, whole = f"int16x{2 * self.lanes}", f"uint8x{4 * self.lanes}"
        words = [self.T.call_llvm_pure_intrin(half, signed, sums[i], sums[i + 1]) for i in (0, 2)]
        return self.T.call_llvm_pure_intrin(whole, unsigned, *words)

    def interleave(self, pixels: Sequence[Expr], vector: int) -> Expr:
        """Bytes of two or four pixels side by side for each channel, as int32.

        Of four, the channels are those of `vector` in `pack_in_place`; of two, those of two vectors there.
        """
        if len(pixels) == 2:
            return self.bits(f"int32x{self.lanes}", self._unpack("uint8", pixels[0], pixels[1], vector))
        first, second = (self._unpack("uint8", pixels[i], pixels[i + 1], vector // 2) for i in (0, 2))
        return self.bits(f"int32x{self.lanes}", self._unpack("uint16", first, second, vector % 2))

    def sign_extended(self, narrow: Expr, half: int) -> Expr:
        """Sums of 16 bits of one half of each 128 bits, as int32."""
        twice = self.bits(f"int32x{self.lanes}", self._unpack("int16", narrow, narrow, half))
        return self.T.shift_right(twice, self.splat(self.T.int32(16), self.lanes))

    def _unpack(self, kind: str, a: Expr, b: Expr, upper: int) -> Expr:
        """punpckl / punpckh: elements of a and b in turn, from the lower or upper half of each 128 bits."""
        size = 16 if kind == "uint8" else 8
        count = self.lanes // 4 * size
        order = [
            start + upper * size // 2 + i + operand * count
            for start in range(0, count, size) for i in range(size // 2) for operand in range(2)
        ]
        return self.T.Shuffle([self.bits(f"{kind}x{count}", value) for value in (a, b)], order)

    @abstractmethod
    def tap_dot(self, sums: Expr, quads: Expr, weights: Buffer, weight: Index) -> Expr:
        """sums[lane] + four taps: `quads` of `interleave`, weights of a depthwise layer."""

    def narrow_tap_dot(self, sums: Expr, pairs: Expr, weights: Buffer, weight: Index) -> Expr:
        """As `tap_dot`, of two taps (`interleave` of two pixels) to sums of 16 bits; raises TypeError where no
        instruction does that.
        """
        raise TypeError(f"{self.flavour} adds no products in 16 bits")
