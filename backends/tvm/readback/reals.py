"""Whether sums that are multiplied in float32 become the codes of the reference, for every sum that can occur."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.readback.numbers import LINE, Fields

EXACT, INTEGER = 2 ** 24, 2.0 ** 31  # integers that float32 holds, values that become an int32
HALF_STEP = 2.0 ** -24 * (1 + 2.0 ** -20)  # of float32 beside 1, and what float64 may lose here
MOST = 1 << 24  # codes of channels and residuals that are looked at; no kernel multiplies more in float32


@dataclass(frozen=True)
class Reach:
    """What a layer can be asked to rescale.

    Args:
        least, largest: sum of each channel, int64.
        low, high: ends of its codes.
        beside: all codes of a residual, less the one of 0; one 0 without a residual.
        zero: the code of 0 of the residual.
    """

    rescale: Rescale
    least: np.ndarray
    largest: np.ndarray
    low: int
    high: int
    beside: np.ndarray
    zero: int

    @property
    def factors(self) -> int:
        return len(self.rescale.terms)


def reach_of(step: Conv, program: Program) -> Reach | None:
    """What a layer can be asked to rescale; None for one that writes logits."""
    if step.rescale is None:
        return None
    known, zeros = largest_codes(program), [program.buffers[number].zero_point for number in step.inputs]
    weights = step.weights.codes.reshape(len(step.bias), -1).astype(np.int64)
    ends = np.stack([weights * (code - zeros[0]) for code in (0, known[step.inputs[0]])])
    bias = step.bias.astype(np.int64)
    beside, zero = np.zeros(1, np.int64), 0
    if len(step.inputs) > 1:
        beside, zero = np.arange(known[step.inputs[1]] + 1) - zeros[1], zeros[1]
    return Reach(step.rescale, bias + ends.min(0).sum(1), bias + ends.max(0).sum(1), step.low, step.high, beside, zero)


def start_of(reach: Reach, factors: Sequence[np.ndarray]) -> np.ndarray | None:
    """What `trunc(sum * factors[0] + residual code * factors[1] + start)` starts with, float32 of each channel.

    It lies in the middle of all that would do. None where even that does not give the code of every sum, whatever
    float32 rounds.

    Args:
        factors: float32 of each channel; of the residual of each, or one.
    """
    codes = np.arange(reach.low + 1, reach.high + 1)
    wide = max(-int(reach.least.min()), int(reach.largest.max()))
    if wide > EXACT or len(reach.least) * len(reach.beside) * len(codes) > MOST:
        return None
    first, (added, multiplier) = _first_sums(reach, codes), _integers(reach)
    ends = [end.reshape(-1, 1, 1) for end in (reach.least, reach.largest)]
    unit, rooms = 1 << reach.rescale.shift, []
    for sums, side, there in ((first - 1, -1, first > ends[0]), (first, 1, first <= ends[1])):
        room = side * (sums * multiplier + added - codes * unit) / unit
        rooms.append(np.where(there, room, 1.0).min((1, 2), initial=1.0))
    own = reach.rescale.offset - sum(
        reach.zero * (term.multiplier.astype(np.int64) << term.lift) for term in reach.rescale.terms[1:])
    start = np.broadcast_to(own / unit + (rooms[0] - rooms[1]) / 2, reach.least.shape).astype(np.float32)
    return start if _same_codes(reach, [*factors, start], first, codes) else None


def _same_codes(reach: Reach, reals: Sequence[np.ndarray], first: np.ndarray, codes: np.ndarray) -> bool:
    """Whether float32 gives each code from its first sum on, and no sooner."""
    numbers = [each.astype(np.float64).reshape(-1, 1, 1) for each in reals]
    least, largest = (each.reshape(-1, 1, 1) for each in (reach.least, reach.largest))
    at, error = _value(reach, numbers, first)
    reached = (first > largest) | (at - error >= codes)
    at, error = _value(reach, numbers, first - 1)
    kept = (first - 1 < least) | (at + error < codes)
    ends = [np.abs(sum(_value(reach, numbers, end))).max() for end in (least, largest)]
    return bool((numbers[0] >= 0).all() and reached.all() and kept.all() and max(ends) < INTEGER)


def _integers(reach: Reach) -> tuple[np.ndarray, np.ndarray]:
    """What is added to each multiplied sum, [channels or 1, residual codes, 1], and what sums are multiplied by."""
    own, added = reach.rescale.terms[0], np.full((1, 1, 1), reach.rescale.offset)
    for term in reach.rescale.terms[1:]:
        multiplier = term.multiplier.astype(np.int64).reshape(-1, 1, 1)
        added = added + (reach.beside.reshape(1, -1, 1) << term.lift) * multiplier
    return added, own.multiplier.astype(np.int64).reshape(-1, 1, 1) << own.lift


def _first_sums(reach: Reach, codes: np.ndarray) -> np.ndarray:
    """The least sum that has each code, by bisection, [channels, residual codes, codes]; one too large for none."""
    shape = (len(reach.least), len(reach.beside), len(codes))
    low, high = (np.broadcast_to(each.reshape(-1, 1, 1), shape) for each in (reach.least, reach.largest + 1))
    added, multiplier = _integers(reach)
    while (low < high).any():
        middle = (low + high) >> 1
        has = ((middle * multiplier + added) >> reach.rescale.shift) >= codes
        low, high = np.where(has | (low >= high), low, middle + 1), np.where(has & (low < high), middle, high)
    return low


def _value(reach: Reach, numbers: Sequence[np.ndarray], sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is truncated, and by how much float32 may miss it: each operation by half a step of what it gives."""
    product, start = sums * numbers[0], numbers[-1]
    beside = numbers[1] * (reach.beside + reach.zero).reshape(1, -1, 1) if len(numbers) > 2 else np.zeros((1, 1, 1))
    total = product + (beside + start)
    return total, HALF_STEP * (np.abs(product) + np.abs(beside) + np.abs(beside + start) + np.abs(total))


def add_reals(fields: Fields, reach: Reach, places: Iterable[int]) -> None:
    """Add the factors of a layer, and what their products are added to.

    Args:
        places: the channel of each lane, beyond the last for padding, where 0 stands.
    """
    lanes, count = np.array(list(places)), len(reach.least)
    known, factors = lanes < count, []
    for number, term in enumerate(reach.rescale.terms):
        ratio = (term.multiplier.astype(np.int64) << term.lift) / float(1 << reach.rescale.shift)
        factors.append(ratio.astype(np.float32))
        if number and len(ratio) == 1:
            fields.real(f"factor_{number}", ratio[0])
            continue
        factors[-1] = np.broadcast_to(factors[-1], (count,))
        each = np.zeros(len(lanes), np.float32)
        each[known] = factors[-1][lanes[known]]
        fields.add(f"factor_{number}", each.view(np.int32))

    def start() -> np.ndarray:
        found, padded = start_of(reach, factors), np.zeros(len(lanes), np.float32)
        padded[known] = np.nan if found is None else found[lanes[known]]
        return np.append(padded, np.zeros(-len(lanes) % LINE, np.float32)).view(np.int32)

    fields.later("start", len(lanes), start)
