"""A `Rescale` as vectors of a kernel's parameters, and the expression that applies it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.fixed_point.rescale import Rescale
from backends.tvm_int8.parameters import Parameters


@dataclass(frozen=True)
class Vectors:
    """Where the numbers of a rescale lie among a kernel's parameters `P`.

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

    def apply(self, values: list[str], channel: str, e: str = "e") -> str:
        """The expression for int32 vectors `values` (expressions) whose first lane is `channel` (an expression).

        `e` is what the template calls the vocabulary.
        """
        terms = []
        for value, (start, many), lift in zip(values, self.multipliers, self.lifts, strict=True):
            lifted = value if lift is None else f"T.shift_left({value}, {e}.load(P, {lift}))"
            place = f"{start} + {channel}" if many else str(start)
            terms.append(f"({lifted}, {e}.load(P, {place}), {e}.load(P, {place} + 1))")
        offset, shift = (f"{e}.load(P, {place})" for place in (self.offset, self.shift))
        return f"{e}.rescale([{', '.join(terms)}], {offset}, {shift}, {self.half})"


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
