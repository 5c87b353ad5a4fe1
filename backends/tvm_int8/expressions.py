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

PACK = 4  # vectors of sums that become one vector of bytes


class Expressions:
    """Portable vectors of `lanes` int32; what a subclass does not override the compiler vectorises as it can.

    Attributes:
        lanes: int32 lanes of one vector of sums.
        registers: for sums and one vector of weights for each; the rest is for codes and temporaries.
        group: input channels that one dot product takes.
        dots_per_cycle, loads_per_cycle: of a typical processor; only tile sizes depend on them.
        latency: cycles of a dependent dot product.
        operand: type of weights in the inner loop; int16 means that codes, too, are widened before it.
        by_input: a vector of weights holds one input channel after the other, not one output channel.
        winograd: 3 x 3 layers are transformed: 16 products of int16 for 4 pixels instead of 36.
        signed_input: codes enter dot products as `code - 128`.
        widths: int32 lanes of vectors in depthwise kernels that interleave pixels into dot products; () for none such.
        depthwise_rows: output rows of their tiles.
        taps: type of their weights.

    Args:
        lanes: instead of the widest vector's.
    """

    flavour = "lanes"
    lanes = 16
    registers = 7
    group = 4
    dots_per_cycle, loads_per_cycle, latency = 0.125, 1.0, 4
    operand = "int8"
    by_input = True
    signed_input = False
    winograd = False
    widths: tuple[int, ...] = ()
    taps = "int8"
    depthwise_rows = 4

    def __init__(self, lanes: int | None = None) -> None:
        from tvm.script import tirx

        self.T = tirx
        self.lanes = lanes or self.lanes

    @property
    def operand_bytes(self) -> int:
        """Of one weight in the inner loop."""
        return 1 if self.operand == "int8" else 2

    def of(self, lanes: int) -> Expressions:
        """The same instruction set with vectors of another width."""
        return expressions(self.flavour, lanes)

    # --- vectors ------------------------------------------------------------------------------------------------------

    def load(self, buffer: Any, index: Any, lanes: int | None = None) -> Any:
        """`lanes` neighbours of a flat buffer; of int32, one vector."""
        lanes = lanes or self.lanes
        return buffer[index] if lanes == 1 else buffer[self.T.Ramp(index, 1, lanes)]

    def bits(self, kind: str, value: Any) -> Any:
        """The same bits as another type."""
        return self.T.reinterpret(kind, value)

    def splat(self, value: Any, lanes: int | None = None) -> Any:
        """One number in every lane."""
        lanes = lanes or self.lanes
        return value if lanes == 1 else self.T.Broadcast(value, lanes)

    def widen(self, codes: Any) -> Any:
        """uint8 -> int32, lane by lane."""
        return self.T.Cast(f"int32x{self.lanes}", codes)

    def real(self, sums: Any) -> Any:
        """int32 -> float32, lane by lane."""
        return self.T.Cast(f"float32x{self.lanes}", sums)

    def quantize(self, values: Any, scale: Any, zero_point: Any) -> Any:
        """float32 -> codes as int32; scale (bits of a float32) and zero point int32."""
        T, kind = self.T, lambda name: name if self.lanes == 1 else f"{name}x{self.lanes}"
        limits = [T.Cast(kind("float32"), self.splat(T.int32(end)) - zero_point) for end in (0, 255)]
        steps = T.nearbyint(values / T.reinterpret(kind("float32"), scale))
        return T.Cast(kind("int32"), T.min(T.max(steps, limits[0]), limits[1])) + zero_point

    def join(self, codes: Sequence[Any]) -> Any:
        """Up to four vectors of codes as the bytes of int32 lanes."""
        joined = codes[0]
        for place, code in enumerate(codes[1:], 1):
            joined = self.T.bitwise_or(joined, self.T.shift_left(code, self.splat(self.T.int32(8 * place))))
        return self.bits(f"uint8x{4 * self.lanes}", joined)

    # --- weights ------------------------------------------------------------------------------------------------------

    def unpack(self, buffer: Any, base: Any, fields: Any, unit: int, offset: Any) -> Any:
        """One vector of weights from packed bytes, as `operand`.

        Args:
            buffer, base: the packed group of vectors.
            fields: see `weights.fields`.
            unit: bytes of a vector.
            offset: what packing added to every byte, int32 vector; None for weights of 8 bits.
        """
        if offset is None:
            return self.T.Cast(f"{self.operand}x{unit}", self.load(buffer, base, unit))
        kind, code = f"uint8x{unit}", None
        for vector, place, width, done in fields:
            byte = self.bits(kind, self.load(buffer, base + vector * unit, unit))
            field = self.T.bitwise_and(self.T.shift_right(byte, self.splat(self.T.uint8(place), unit)),
                                       self.splat(self.T.uint8(2**width - 1), unit))
            field = self.T.shift_left(field, self.splat(self.T.uint8(done), unit))
            code = field if code is None else self.T.bitwise_or(code, field)
        return self.T.Cast(f"{self.operand}x{unit}", self.bits(f"int8x{unit}", code - self.bits(kind, offset)))

    # --- dot products -------------------------------------------------------------------------------------------------

    def codes(self, codes: Any, index: Any) -> Any:
        """A group of neighbouring codes for every lane, as `dot` takes them."""
        return [self.T.Cast("int16", codes[index + i]) for i in range(self.group)]

    def weights(self, buffer: Any, index: Any) -> Any:
        """One vector of weights, a group for each lane, as `dot` takes them."""
        return [self.load(buffer, index + i * self.lanes) for i in range(self.group)]

    def dot(self, sums: Any, codes: Any, weights: Any) -> Any:
        """sums[lane] + the products of a group."""
        for code, weight in zip(codes, weights, strict=True):
            wide = self.T.Cast(f"int32x{self.lanes}", self.T.Cast(f"int16x{self.lanes}", weight))
            sums = sums + wide * self.splat(self.T.Cast("int32", code))
        return sums

    # --- Winograd's transforms ----------------------------------------------------------------------------------------

    def combine(self, rows: Sequence[Sequence[int]], grid: Sequence[Sequence[Any]], i: int, j: int) -> Any:
        """Element (i, j) of `rows @ grid @ rows.T`, factors -2 ... 2; the compiler finds what elements share."""
        return _weighted(rows[i], [_weighted(rows[j], line) for line in grid])

    # --- requantization -----------------------------------------------------------------------------------------------

    def rescale(self, terms: Sequence[tuple[Any, Any, Any]], offset: Any, shift: Any, half: bool) -> Any:
        """((sum of value * multiplier [+ 2^31]) >> 32, plus offset) >> shift, lane by lane.

        Args:
            terms: (values, multipliers, multipliers of the lanes one further), int32 vectors.
            offset: upper halves of the 64-bit offset, int32 vector.
            shift: what remains beyond 32, int32 vector.
            half: the lower half of the offset is 2^31; else it is 0.
        """
        wide = f"int64x{self.lanes}"
        total = self._sum([self.T.Cast(wide, value) * self.T.Cast(wide, multiplier) for value, multiplier, _ in terms],
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


def _weighted(factors: Sequence[int], values: Sequence[Any]) -> Any:
    """Sum of factor * value by additions; positive factors first."""
    total = None
    for factor, value in sorted(zip(factors, values, strict=True), key=lambda pair: -pair[0]):
        term = value + value if abs(factor) == 2 else value
        if factor > 0:
            total = term if total is None else total + term
        elif factor < 0:
            total = total - term
    return total


class _X86(Expressions):
    """Even and odd lanes multiplied apart; saturating packs."""

    by_input = False
    packs = ("", "")

    def rescale(self, terms: Sequence[tuple[Any, Any, Any]], offset: Any, shift: Any, half: bool) -> Any:
        lanes = self.lanes // 2
        # Multipliers are always taken from even lanes: LLVM moves that extraction out of loops, and back beside the
        # multiplication, as vpmuldq needs it, in this form only.
        pairs = [[self.bits(f"int64x{lanes}", value) for value in term] for term in terms]
        even = self._sum([self._even(value) * self._even(own) for value, own, _ in pairs], half, lanes)
        odd = self._sum([self._upper(value, lanes) * self._even(further) for value, _, further in pairs], half, lanes)
        lower = self.T.bitwise_and(self._upper(even, lanes), self.splat(self.T.int64(0xFFFFFFFF), lanes))
        upper = self.T.bitwise_and(odd, self.splat(self.T.int64(-(1 << 32)), lanes))
        high = self.bits(f"int32x{self.lanes}", self.T.bitwise_or(lower, upper))
        return self.T.shift_right(high + offset, shift)

    def _even(self, wide: Any) -> Any:
        """The lower halves, sign-extended: `vpmuldq` reads nothing else, so these shifts disappear."""
        lanes = self.lanes // 2
        return self._upper(self.T.shift_left(wide, self.splat(self.T.int64(32), lanes)), lanes)

    def pack(self, sums: Sequence[Any]) -> Any:
        if len(sums) != PACK:
            return super().pack(sums)
        packed = self.bits(f"int32x{self.lanes}", self.pack_in_place(sums))
        groups = self.lanes // PACK
        order = [group * PACK + vector for vector in range(PACK) for group in range(groups)]
        return self.bits(f"uint8x{PACK * self.lanes}", self.T.Shuffle([packed], order))

    def pack_in_place(self, sums: Sequence[Any]) -> Any:
        """Four vectors of sums as bytes in the order of the instructions: within 128 bits, four of each vector."""
        signed, unsigned = _PACKS[self.lanes]
        half, whole = f"int16x{2 * self.lanes}", f"uint8x{4 * self.lanes}"
        words = [self.T.call_llvm_pure_intrin(half, signed, sums[i], sums[i + 1]) for i in (0, 2)]
        return self.T.call_llvm_pure_intrin(whole, unsigned, *words)

    def interleave(self, pixels: Sequence[Any], vector: int) -> Any:
        """Bytes of four pixels side by side for each channel, as int32: the channels of `vector` in `pack_in_place`."""
        pairs = [self._unpack("uint8", pixels[i], pixels[i + 1], vector // 2) for i in (0, 2)]
        return self.bits(f"int32x{self.lanes}", self._unpack("uint16", *pairs, vector % 2))

    def _unpack(self, kind: str, a: Any, b: Any, upper: int) -> Any:
        """punpckl / punpckh: elements of a and b in turn, from the lower or upper half of each 128 bits."""
        size = 16 if kind == "uint8" else 8
        count = self.lanes // 4 * size
        order = [
            start + upper * size // 2 + i + operand * count
            for start in range(0, count, size) for i in range(size // 2) for operand in range(2)
        ]
        return self.T.Shuffle([self.bits(f"{kind}x{count}", value) for value in (a, b)], order)


# Saturating packs by the number of int32 lanes.
_PACKS = {
    4: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
}


class Vnni512(_X86):
    """AVX-512 with `vpdpbusd`."""

    flavour = "vnni512"
    lanes = 16
    registers = 30
    dots_per_cycle, loads_per_cycle, latency = 2.0, 2.0, 5
    widths = (16, 8, 4)

    def __init__(self, lanes: int | None = None) -> None:
        super().__init__(lanes)
        from tvm.target.codegen import llvm_version_major

        # LLVM 22 gave the intrinsic's operands their true type; before, bytes travelled as int32.
        self._bytes = llvm_version_major() >= 22

    def codes(self, codes: Any, index: Any) -> Any:
        return self.splat(self.bits("int32", codes[self.T.Ramp(index, 1, self.group)]))

    def weights(self, buffer: Any, index: Any) -> Any:
        return self.load(buffer, index, self.group * self.lanes)

    def dot(self, sums: Any, codes: Any, weights: Any) -> Any:
        kinds = (f"uint8x{self.group * self.lanes}", f"int8x{self.group * self.lanes}") if self._bytes else \
            (f"int32x{self.lanes}",) * 2
        operands = [self.bits(kind, value) for kind, value in zip(kinds, (codes, weights), strict=True)]
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return self.T.call_llvm_pure_intrin(f"int32x{self.lanes}", name, sums, *operands)

    def tap_dot(self, sums: Any, quads: Any, buffer: Any, index: Any) -> Any:
        """sums[lane] + four taps: `quads` of `interleave`, weights of a depthwise layer."""
        return self.dot(sums, quads, self.load(buffer, index, 4 * self.lanes))


class Avx2(_X86):
    """AVX2: int16 products summed in pairs. `vpmaddubsw` would take bytes, but it saturates."""

    flavour = "avx2"
    lanes = 8
    registers = 14
    group = 2
    dots_per_cycle, loads_per_cycle, latency = 1.5, 1.5, 1
    operand = "int16"
    winograd = True
    widths = (8, 4)
    taps = "int16"
    depthwise_rows = 2

    def codes(self, codes: Any, index: Any) -> Any:
        return self.bits("int16x16", self.splat(self.bits("int32", codes[self.T.Ramp(index, 1, self.group)])))

    def weights(self, buffer: Any, index: Any) -> Any:
        return self.load(buffer, index, self.group * self.lanes)

    def dot(self, sums: Any, codes: Any, weights: Any) -> Any:
        name = "llvm.x86.avx2.pmadd.wd" if self.lanes == 8 else "llvm.x86.sse2.pmadd.wd"
        return sums + self.T.call_llvm_pure_intrin(f"int32x{self.lanes}", name, codes, weights)

    def tap_dot(self, sums: Any, quads: Any, buffer: Any, index: Any) -> Any:
        """sums[lane] + four taps: bytes 0 and 2 of `quads` as int16, then bytes 1 and 3."""
        lanes = 2 * self.lanes
        even = self.bits(f"int16x{lanes}", self.T.bitwise_and(quads, self.splat(self.T.int32(0x00FF00FF))))
        words = self.T.shift_right(self.bits(f"uint16x{lanes}", quads), self.splat(self.T.uint16(8), lanes))
        sums = self.dot(sums, even, self.load(buffer, index, lanes))
        return self.dot(sums, self.bits(f"int16x{lanes}", words), self.load(buffer, index + lanes, lanes))


class _Neon(Expressions):
    """AArch64 with a dot-product instruction of four lanes."""

    lanes = 4
    registers = 30
    dots_per_cycle, loads_per_cycle, latency = 2.0, 2.0, 3
    by_input = False
    instruction = ""

    def codes(self, codes: Any, index: Any) -> Any:
        return self.bits("uint8x16", self.splat(self.bits("int32", codes[self.T.Ramp(index, 1, self.group)])))

    def weights(self, buffer: Any, index: Any) -> Any:
        return self.load(buffer, index, self.group * self.lanes)

    def dot(self, sums: Any, codes: Any, weights: Any) -> Any:
        return self.T.call_llvm_pure_intrin("int32x4", self.instruction, sums, codes, weights)


class Usdot(_Neon):
    """ARMv8.6 i8mm: unsigned codes times signed weights."""

    flavour = "usdot"
    instruction = "llvm.aarch64.neon.usdot.v4i32.v16i8"


class Sdot(_Neon):
    """ARMv8.2 dot products of signed bytes: codes enter as `code - 128`, which the bias takes back."""

    flavour = "sdot"
    instruction = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    signed_input = True

    def codes(self, codes: Any, index: Any) -> Any:
        group = self.bits("int32", codes[self.T.Ramp(index, 1, self.group)])
        flipped = self.T.bitwise_xor(group, self.T.int32(0x80808080 - (1 << 32)))
        return self.bits("int8x16", self.splat(flipped))


_FLAVOURS = {kind.flavour: kind for kind in (Vnni512, Avx2, Sdot, Usdot, Expressions)}
FLAVOURS = tuple(_FLAVOURS)


@cache
def expressions(flavour: str, lanes: int | None = None) -> Expressions:
    """The vocabulary of a flavour: `vnni512`, `avx2`, `sdot`, `usdot`, or `lanes` for compilers without our help."""
    return _FLAVOURS[flavour](lanes)
