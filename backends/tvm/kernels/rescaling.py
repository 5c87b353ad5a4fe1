"""How a kernel's sums become codes: vectors of its numbers, and the expression that applies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.real_rescale import RealRescale
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.parameters import Parameters


@dataclass(frozen=True)
class Vectors:
    """Where the numbers of a rescale lie among a kernel's numbers.

    Args:
        multipliers: offset of each term's multipliers, and whether there is one a channel.
        lifts: offset of each term's lift; None where it is 0.
        offset, shift: offsets of vectors of one number.
        half: the lower half of the 64-bit offset is 2^31 (a shift of exactly 32), else 0.
    """

    multipliers: tuple[tuple[int, bool], ...]
    lifts: tuple[int | None, ...]
    offset: int
    shift: int
    half: bool

    def apply(self, e: InstructionSet, numbers: Buffer, values: Sequence[Expr], channel: Index) -> Expr:
        """The codes, int32, of int32 vectors `values` whose first lane is `channel`."""
        terms = []
        for value, (start, many), lift in zip(values, self.multipliers, self.lifts, strict=True):
            lifted = value if lift is None else e.lift(value, e.load(numbers, lift))
            place = start + channel if many else start
            terms.append((lifted, e.load(numbers, place), e.load(numbers, place + 1)))
        return e.rescale(terms, e.load(numbers, self.offset), e.load(numbers, self.shift), self.half)


def add_rescale(parameters: Parameters, rescale: Rescale, channels: int, order: np.ndarray | None = None) -> Vectors:
    """Append a rescale for `channels` padded channels; `order` permutes them."""
    multipliers, lifts = [], []
    for term in rescale.terms:
        many = len(term.multiplier) > 1
        values = np.zeros(channels, np.int64)
        values[:len(term.multiplier) if many else channels] = term.multiplier
        multipliers.append((parameters.add(values if order is None else values[order]), True) if many else
                           (parameters.splat(int(term.multiplier[0])), False))
        lifts.append(parameters.splat(term.lift) if term.lift else None)
    return Vectors(
        tuple(multipliers), tuple(lifts), parameters.splat(rescale.offset >> 32), parameters.splat(rescale.shift - 32),
        bool(rescale.offset & 0xFFFFFFFF),
    )


@dataclass(frozen=True)
class RealVectors:
    """The same in float32.

    Args:
        factors: offset of each term's factors, and whether there is one a channel.
        start: offset of what they are added to, a channel each.
    """

    factors: tuple[tuple[int, bool], ...]
    start: int

    def apply(self, e: InstructionSet, numbers: Buffer, values: Sequence[Expr], channel: Index) -> Expr:
        """The codes, int32, of int32 vectors `values` whose first lane is `channel`; of a residual, its codes."""
        kind = f"float32x{e.lanes}"
        total = e.bits(kind, e.load(numbers, self.start + channel))
        for value, (first, many) in reversed(list(zip(values, self.factors, strict=True))):
            factor = e.bits(kind, e.load(numbers, first + channel if many else first))
            total = e.real(value) * factor + total
        return e.cast(f"int32x{e.lanes}", total)


def add_real_rescale(
    parameters: Parameters, rescale: RealRescale, channels: int, order: np.ndarray | None = None
) -> RealVectors:
    """Append a rescale for `channels` padded channels; `order` permutes them."""
    def add(values: np.ndarray) -> int:
        padded = np.zeros(channels, np.float32)
        padded[:len(values)] = values
        return parameters.add(padded if order is None else padded[order])

    factors = tuple((add(factor), True) if len(factor) > 1 else (parameters.splat(int(factor.view(np.int32)[0])), False)
                    for factor in rescale.factors)
    return RealVectors(factors, add(rescale.start))
