"""A rescale in float32 that gives the same codes for every sum that can occur: found, and shown, for each layer.

    code = clip(trunc(sum * factor[channel] + start[channel]))            3 instructions, where 64-bit integers take 10

From one sum to the next the exact value moves by the layer's ratio, and codes change at a few sums only: the start is
chosen so that float32 falls on the right side of each of them with room for all its roundings, fused or not. What lies
between two such sums follows, because every operation is monotone. Where no start does that, sums stay in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.rescale import Rescale

WHOLE = 1 << 24  # integers up to here are float32
SPARE = 1.01  # for what is lost where errors are added up in float64
LARGEST = float(1 << 30)  # of what becomes an int32
ROUNDING = 2.0 ** -24  # of one operation, of its result
AT_ONCE = 1 << 20  # of all channels, that are looked at together
MOST = 4096  # pairs of a residual code and an output code that are looked at in each channel


@dataclass(frozen=True)
class RealRescale:
    """How sums become codes, before these are clipped to ends that are not negative.

    Args:
        factors: float32 [channels] of the sums; and [1] or [channels] of the codes of a residual, where there is one.
        start: float32 [channels].
    """

    factors: tuple[np.ndarray, ...]
    start: np.ndarray


@dataclass(frozen=True)
class Residual:
    """Codes 0 ... `largest` that are added, and the one that stands for 0."""

    largest: int
    zero_point: int


def real_rescale(
    rescale: Rescale, ends: tuple[np.ndarray, np.ndarray], low: int, high: int, residual: Residual | None = None,
) -> RealRescale | None:
    """The float32 numbers of a rescale; None where they would not give the same codes.

    Args:
        rescale: of the sums, and of the residual's centered codes.
        ends: the least and the largest sum of each channel, int64.
        low, high: ends of the codes.
        residual: what is added.
    """
    least, largest = ends
    whole = [term.multiplier.astype(np.int64) << term.lift for term in rescale.terms]
    codes = np.arange(low + 1, high + 1)
    added = 0 if residual is None else residual.largest
    if (added + 1) * len(codes) > MOST or whole[0].min() <= 0 or max(-least.min(), largest.max()) > WHOLE:
        return None
    found = []
    some = max(1, AT_ONCE // ((added + 1) * max(1, len(codes))))
    for first in range(0, len(least), some):
        place = slice(first, first + some)
        part = [each if len(each) == 1 else each[place] for each in whole]
        found.append(_of_channels(rescale, part, (least[place], largest[place]), codes, residual))
        if found[-1] is None:
            return None
    factors = [np.concatenate([part.factors[0] for part in found]), *(
        each if len(each) == 1 else np.concatenate([part.factors[1] for part in found])
        for each in found[0].factors[1:])]
    return RealRescale(tuple(factors), np.concatenate([part.start for part in found]))


def _of_channels(
    rescale: Rescale, whole: Sequence[np.ndarray], ends: tuple[np.ndarray, np.ndarray], codes: np.ndarray,
    residual: Residual | None,
) -> RealRescale | None:
    """The same for some channels, whose multipliers with their lifts are `whole`."""
    added, shape = 0 if residual is None else residual.largest, ends[0].shape
    steps, unit = np.broadcast_to(whole[0], shape), 1 << rescale.shift
    offset = np.full(shape, rescale.offset)
    if residual is not None:
        offset = offset - residual.zero_point * whole[1]
    factors = tuple((factor / unit).astype(np.float32) for factor in whole)
    points = _points(_offsets(offset, added, whole), steps, codes, unit, ends)
    start = (offset / unit + points.middle).astype(np.float32)
    found = RealRescale((np.broadcast_to(factors[0], shape), *factors[1:]), start)
    return found if points.hold(found, added) and _fits(found, ends, added) else None


def _offsets(offset: np.ndarray, added: int, whole: Sequence[np.ndarray]) -> np.ndarray:
    """What is added to the multiplied sum, [channels, residual codes]."""
    if len(whole) == 1:
        return offset[:, None]
    return offset[:, None] + np.arange(added + 1) * whole[1][:, None]


@dataclass(frozen=True)
class _Points:
    """Where codes change, [channels, residual codes, codes]: the last sum below each code, and the first that has it.

    Args:
        codes: that are reached.
        below, above: sums; `room_below` and `room_above` how far the exact value is from the code there, infinite for a
            sum that cannot occur.
    """

    codes: np.ndarray
    below: np.ndarray
    above: np.ndarray
    room_below: np.ndarray
    room_above: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """What moves all values of a channel so that both sides have as much room, float64 [channels].

        A side that nothing lies on counts as one step of room.
        """
        below, above = (room.min((1, 2), initial=1.0) for room in (self.room_below, self.room_above))
        return (below - above) / 2

    def hold(self, found: RealRescale, added: int) -> bool:
        """Whether float32 falls on the right side everywhere, whatever is rounded or fused."""
        shape = (-1, 1, 1)
        factor, start = (each.astype(np.float64).reshape(shape) for each in (found.factors[0], found.start))
        other = np.zeros((1, 1, 1)) if len(found.factors) == 1 else \
            found.factors[1].astype(np.float64).reshape(shape) * np.arange(added + 1).reshape(1, -1, 1)
        right = True
        for sums, room, side in ((self.below, self.room_below, -1), (self.above, self.room_above, 1)):
            product = sums * factor
            total = product + other + start
            error = ROUNDING * sum(np.abs(each) for each in (product, other, other + start, total)) * SPARE
            right &= bool((side * (total - self.codes) >= error)[np.isfinite(room)].all())
        return right


def _points(
    offsets: np.ndarray, steps: np.ndarray, codes: np.ndarray, unit: int, ends: tuple[np.ndarray, np.ndarray]
) -> _Points:
    """Where the exact rescale changes its code."""
    least, largest = (end[:, None, None] for end in ends)
    offsets, steps = offsets[:, :, None], steps[:, None, None]
    above = -((offsets - codes * unit) // steps)  # the least sum whose value reaches the code
    below = np.minimum(above - 1, largest)
    above_in, below_in = above <= largest, below >= least
    above = np.maximum(above, least)
    room_above = np.where(above_in, (above * steps + offsets - codes * unit) / unit, np.inf)
    room_below = np.where(below_in, (codes * unit - below * steps - offsets) / unit, np.inf)
    return _Points(codes, np.where(below_in, below, 0), np.where(above_in, above, 0), room_below, room_above)


def _fits(found: RealRescale, ends: tuple[np.ndarray, np.ndarray], added: int) -> bool:
    """Every value can be converted."""
    most = np.maximum(-ends[0], ends[1]) * found.factors[0].astype(np.float64) + np.abs(found.start)
    if len(found.factors) > 1:
        most = most + added * np.abs(found.factors[1].astype(np.float64))
    return bool((most < LARGEST).all())
