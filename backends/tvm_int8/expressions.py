"""What kernel templates may say in each instruction set: the vocabulary of `e.` in their text, as TIR expressions.

A template is written once. Dot products, the rescaling multiplication and the packing of four vectors of sums into
bytes are looked up here, because these three decide the speed and no compiler finds them by itself:

* `vpdpbusd` / `sdot` / `usdot` sum four 8-bit products into each 32-bit lane; `vpmaddwd` two 16-bit ones, exactly;
* 32 x 32 -> 64-bit products exist on x86 for even lanes only: even and odd lanes are multiplied apart, and the upper
  halves, which are all that a shift of 32 or more leaves, put together by one permutation;
* `vpackssdw` and `vpackuswb` saturate while they pack, so clipping to a byte costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

QUAD = 4  # input channels of one dot product


class Expressions:
    """Portable vectors of `lanes` int32; what a subclass does not override the compiler vectorises as it can.

    Attributes:
        lanes: int32 lanes of one vector of sums.
        accumulators: vectors of sums that fit the registers beside operands.
        dots_per_cycle, loads_per_cycle: of a typical processor; only tile sizes depend on them.
        latency: cycles of a dependent dot product.
        operand: type of a weight in the kernel's inner loop.
        signed_input: codes enter dot products as `code - 128`.
        interleaved: depthwise kernels join four pixels into dot products instead of multiplying lane by lane.
    """

    lanes = 16
    accumulators = 6
    dots_per_cycle, loads_per_cycle, latency = 0.125, 1.0, 4
    operand = "int8"
    signed_input = False
    interleaved = False

    def __init__(self) -> None:
        from tvm.script import tirx

        self.T = tirx

    # --- vectors ------------------------------------------------------------------------------------------------------

    def load(self, buffer: Any, index: Any, lanes: int | None = None) -> Any:
        """`lanes` neighbours of a flat buffer; of int32, one vector."""
        return buffer[self.T.Ramp(index, 1, lanes or self.lanes)]

    def bits(self, kind: str, value: Any) -> Any:
        """The same bits as another type."""
        return self.T.reinterpret(kind, value)

    def splat(self, value: Any, lanes: int | None = None) -> Any:
        """One number in every lane."""
        return self.T.Broadcast(value, lanes or self.lanes)

    def widen(self, codes: Any) -> Any:
        """uint8 -> int32, lane by lane."""
        return self.T.Cast(f"int32x{self.lanes}", codes)

    def real(self, sums: Any) -> Any:
        """int32 -> float32, lane by lane."""
        return self.T.Cast(f"float32x{self.lanes}", sums)

    # --- weights ------------------------------------------------------------------------------------------------------

    def unpack(self, buffer: Any, base: Any, fields: Any, unit: int, lanes: int, offset: Any) -> Any:
        """One vector of weights, or a part of it, from packed bytes.

        Args:
            buffer, base: the packed group of vectors.
            fields: see `weights.fields`.
            unit: bytes of a vector.
            lanes: bytes of the part.
            offset: what packing added to every byte, int32 vector; None for weights of 8 bits.
        """
        if offset is None:
            return self._operand(buffer[self.T.Ramp(base, 1, lanes)], lanes)
        code = None
        for vector, place, width, done in fields:
            byte = self.bits(f"uint8x{lanes}", buffer[self.T.Ramp(base + vector * unit, 1, lanes)])
            mask = self.splat(self.T.uint8(2**width - 1), lanes)
            field = self.T.bitwise_and(self.T.shift_right(byte, self.splat(self.T.uint8(place), lanes)), mask)
            field = self.T.shift_left(field, self.splat(self.T.uint8(done), lanes))
            code = field if code is None else self.T.bitwise_or(code, field)
        return self._operand(self.bits(f"int8x{lanes}", code - self.bits(f"uint8x{lanes}", offset)), lanes)

    def _operand(self, weights: Any, lanes: int) -> Any:
        return weights if self.operand == "int8" else self.T.Cast(f"{self.operand}x{lanes}", weights)

    # --- dot products -------------------------------------------------------------------------------------------------

    def quad(self, codes: Any, index: Any) -> Any:
        """Four neighbouring codes for every lane, as `dot` takes them."""
        return [self.T.Cast("int16", codes[index + i]) for i in range(QUAD)]

    def weights(self, buffer: Any, index: Any) -> Any:
        """One vector of weights, four for each lane, as `dot` takes them."""
        return [self.load(buffer, index + i * self.lanes) for i in range(QUAD)]

    def dot(self, sums: Any, quad: Any, weights: Any) -> Any:
        """sums[lane] + four products."""
        for code, weight in zip(quad, weights, strict=True):
            wide = self.T.Cast(f"int32x{self.lanes}", self.T.Cast(f"int16x{self.lanes}", weight))
            sums = sums + wide * self.splat(self.T.Cast("int32", code))
        return sums

    # --- requantization -----------------------------------------------------------------------------------------------

    def rescale(self, terms: Sequence[tuple[Any, Any]], offset: Any, shift: Any, half: bool) -> Any:
        """((sum of value * multiplier [+ 2^31]) >> 32, plus offset) >> shift, lane by lane.

        Args:
            terms: (values, multipliers), int32 vectors.
            offset: upper halves of the 64-bit offset, int32 vector.
            shift: what remains beyond 32, int32 vector.
            half: the lower half of the offset is 2^31; else it is 0.
        """
        wide = f"int64x{self.lanes}"
        total = self._sum([self.T.Cast(wide, value) * self.T.Cast(wide, multiplier) for value, multiplier in terms],
                          half, self.lanes)
        high = self.T.Cast(f"int32x{self.lanes}", self._upper(total, self.lanes))
        return self.T.shift_right(high + offset, shift)

    def _sum(self, products: Sequence[Any], half: bool, lanes: int) -> Any:
        total = products[0]
        for product in products[1:]:
            total = total + product
        return total + self.splat(self.T.int64(1 << 31), lanes) if half else total

    def _upper(self, wide: Any, lanes: int) -> Any:
        return self.T.shift_right(wide, self.splat(self.T.int64(32), lanes))

    # --- bytes --------------------------------------------------------------------------------------------------------

    def pack(self, sums: Sequence[Any]) -> Any:
        """Vectors of sums, saturated to 0 ... 255 and laid side by side as bytes."""
        joined = sums[0] if len(sums) == 1 else self.T.Shuffle(list(sums), list(range(len(sums) * self.lanes)))
        return self._narrow(joined, len(sums) * self.lanes)

    def _narrow(self, sums: Any, lanes: int) -> Any:
        low, high = self.splat(self.T.int32(0), lanes), self.splat(self.T.int32(255), lanes)
        return self.T.Cast(f"uint8x{lanes}", self.T.min(self.T.max(sums, low), high))

    def clip(self, codes: Any, low: Any, high: Any) -> Any:
        """Bytes between two vectors of bytes."""
        return self.T.min(self.T.max(codes, low), high)


class _X86(Expressions):
    """Even and odd lanes multiplied apart; saturating packs."""

    suffix = ""
    packs = ("", "")

    def rescale(self, terms: Sequence[tuple[Any, Any]], offset: Any, shift: Any, half: bool) -> Any:
        lanes = self.lanes // 2
        pairs = [[self.bits(f"int64x{lanes}", value) for value in term] for term in terms]
        even = self._sum([self._even(value) * self._even(multiplier) for value, multiplier in pairs], half, lanes)
        odd = self._sum([self._upper(value, lanes) * self._upper(multiplier, lanes) for value, multiplier in pairs],
                        half, lanes)
        lower = self.T.bitwise_and(self._upper(even, lanes), self.splat(self.T.int64(0xFFFFFFFF), lanes))
        upper = self.T.bitwise_and(odd, self.splat(self.T.int64(-(1 << 32)), lanes))
        high = self.bits(f"int32x{self.lanes}", self.T.bitwise_or(lower, upper))
        return self.T.shift_right(high + offset, shift)

    def _even(self, wide: Any) -> Any:
        """The lower halves, sign-extended: `vpmuldq` reads nothing else, so these shifts disappear."""
        lanes = self.lanes // 2
        return self._upper(self.T.shift_left(wide, self.splat(self.T.int64(32), lanes)), lanes)

    def pack(self, sums: Sequence[Any]) -> Any:
        if len(sums) != QUAD:
            return super().pack(sums)
        packed = self.bits(f"int32x{self.lanes}", self.pack_in_place(sums))
        groups = self.lanes // QUAD
        order = [group * QUAD + vector for vector in range(QUAD) for group in range(groups)]
        return self.bits(f"uint8x{QUAD * self.lanes}", self.T.Shuffle([packed], order))

    def pack_in_place(self, sums: Sequence[Any]) -> Any:
        """Four vectors of sums as bytes in the order of the instructions: within 128 bits, four of each vector."""
        signed, unsigned = self.packs
        half, whole = f"int16x{2 * self.lanes}", f"uint8x{4 * self.lanes}"
        words = [self.T.call_llvm_pure_intrin(half, signed, sums[i], sums[i + 1]) for i in (0, 2)]
        return self.T.call_llvm_pure_intrin(whole, unsigned, *words)


class Vnni512(_X86):
    """AVX-512 with `vpdpbusd`."""

    lanes = 16
    accumulators = 26
    dots_per_cycle, loads_per_cycle, latency = 2.0, 2.0, 5
    interleaved = True
    packs = ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512")

    def __init__(self) -> None:
        super().__init__()
        from tvm.target.codegen import llvm_version_major

        # LLVM 22 gave the intrinsic's operands their true type; before, bytes travelled as int32.
        self._bytes = llvm_version_major() >= 22

    def quad(self, codes: Any, index: Any) -> Any:
        return self.splat(self.bits("int32", codes[self.T.Ramp(index, 1, QUAD)]))

    def weights(self, buffer: Any, index: Any) -> Any:
        return self.load(buffer, index, QUAD * self.lanes)

    def dot(self, sums: Any, quad: Any, weights: Any) -> Any:
        kinds = (f"uint8x{QUAD * self.lanes}", f"int8x{QUAD * self.lanes}") if self._bytes else \
            (f"int32x{self.lanes}",) * 2
        operands = [self.bits(kind, value) for kind, value in zip(kinds, (quad, weights), strict=True)]
        return self.T.call_llvm_pure_intrin(f"int32x{self.lanes}", "llvm.x86.avx512.vpdpbusd.512", sums, *operands)


class Avx2(_X86):
    """AVX2: int16 products summed in pairs. `vpmaddubsw` would take bytes, but it saturates."""

    lanes = 8
    accumulators = 12
    dots_per_cycle, loads_per_cycle, latency = 0.75, 2.0, 2
    operand = "int16"
    interleaved = True
    packs = ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb")

    def quad(self, codes: Any, index: Any) -> Any:
        return self.pairs(self.splat(self.bits("int32", codes[self.T.Ramp(index, 1, QUAD)])))

    def pairs(self, quads: Any) -> Any:
        """Bytes 0 and 2, and bytes 1 and 3, of every lane as int16."""
        masked = self.T.bitwise_and(quads, self.splat(self.T.int32(0x00FF00FF)))
        words = self.bits(f"uint16x{2 * self.lanes}", quads)
        upper = self.T.shift_right(words, self.splat(self.T.uint16(8), 2 * self.lanes))
        return [self.bits(f"int16x{2 * self.lanes}", value) for value in (masked, upper)]

    def weights(self, buffer: Any, index: Any) -> Any:
        return [self.load(buffer, index + i * 2 * self.lanes, 2 * self.lanes) for i in range(2)]

    def dot(self, sums: Any, quad: Any, weights: Any) -> Any:
        for codes, factors in zip(quad, weights, strict=True):
            sums = sums + self.T.call_llvm_pure_intrin(
                f"int32x{self.lanes}", "llvm.x86.avx2.pmadd.wd", codes, factors
            )
        return sums


class _Neon(Expressions):
    """AArch64 with a dot-product instruction of four lanes."""

    lanes = 4
    accumulators = 24
    dots_per_cycle, loads_per_cycle, latency = 2.0, 2.0, 3
    instruction = ""

    def quad(self, codes: Any, index: Any) -> Any:
        return self.bits("uint8x16", self.splat(self.bits("int32", codes[self.T.Ramp(index, 1, QUAD)])))

    def weights(self, buffer: Any, index: Any) -> Any:
        return self.load(buffer, index, QUAD * self.lanes)

    def dot(self, sums: Any, quad: Any, weights: Any) -> Any:
        return self.T.call_llvm_pure_intrin("int32x4", self.instruction, sums, quad, weights)


class Usdot(_Neon):
    """ARMv8.6 i8mm: unsigned codes times signed weights."""

    instruction = "llvm.aarch64.neon.usdot.v4i32.v16i8"


class Sdot(_Neon):
    """ARMv8.2 dot products of signed bytes: codes enter as `code - 128`, which the bias takes back."""

    instruction = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    signed_input = True

    def quad(self, codes: Any, index: Any) -> Any:
        flipped = self.T.bitwise_xor(self.bits("int32", codes[self.T.Ramp(index, 1, QUAD)]), self.T.int32(-0x7F7F7F80))
        return self.bits("int8x16", self.splat(flipped))


_FLAVOURS = {"vnni512": Vnni512, "avx2": Avx2, "sdot": Sdot, "usdot": Usdot, "lanes": Expressions}
FLAVOURS = tuple(_FLAVOURS)


@cache
def expressions(flavour: str) -> Expressions:
    """The vocabulary of a flavour: `vnni512`, `avx2`, `sdot`, `usdot`, or `lanes` for compilers without our help."""
    return _FLAVOURS[flavour]()
