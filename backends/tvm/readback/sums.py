"""What sums of a layer can be: whether they fit 16 bits, and become the right codes where float32 multiplies them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.readback.numbers import LINE, Fields
from isobit.backends.tvm.readback.processors import Processor

EXACT, INTEGER = 2 ** 24, 2.0 ** 31  # integers that float32 holds, values that become an int32
HALF_STEP = 2.0 ** -24 * (1 + 2.0 ** -20)  # of float32 beside 1, and what float64 may lose here
AT_ONCE = 1 << 20  # codes of channels and residuals that are looked at together
SIGNED, QUAD = 127, 4  # codes that are signed bytes as well; taps of one channel side by side
WORD = 2 ** 15 - 1  # the largest sum of 16 bits, of either sign


def longest_run(parts: np.ndarray, loops: Sequence[int], largest: int) -> int:
    """How many dot products can be added in 16 bits whatever the codes, of those that loops allow; 0 for none.

    Args:
        parts: weights [blocks, dot products of the loops, sums, weights that each sum adds].
        loops: the innermost last. Whole inner loops may be added, or an equal part of the last.
        largest: code.
    """
    whole = [math.prod(loops[first:]) for first in range(len(loops))]
    equal = [part for part in reversed(range(1, loops[-1])) if not loops[-1] % part]
    wide = parts.astype(np.int64)
    up, down = (np.where(chosen, np.abs(wide), 0).sum(3) * largest for chosen in (wide > 0, wide < 0))
    for run in (*whole, *equal):
        sums = [each.reshape(len(each), -1, run, each.shape[2]).sum(2) for each in (up, down)]
        if max(each.max() for each in sums) <= WORD:
            return run
    return 0


def transformed(weights: np.ndarray) -> np.ndarray:
    """Weights [..., 3, 3] as 4 x 4 products of tiles take them, [..., 4, 4]."""
    twice = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
    return twice @ weights @ twice.T


def transforms_fit(codes: np.ndarray, bias: np.ndarray, largest: int) -> bool:
    """Whether 9 times the sums of transformed codes, and four biases, fit 32 bits; see `transformed_run`."""
    weights = transformed(codes.astype(np.int64).transpose(0, 3, 1, 2))
    most = int(np.abs(weights).sum(1).max()) * 4 * largest
    return 9 * most + 4 * int(np.abs(bias.astype(np.int64)).max()) < 1 << 31


def transformed_run(codes: np.ndarray, largest: int, processor: Processor) -> tuple[int, int] | None:
    """What transformed codes are moved by, and how many dot products of them are added in 16 bits.

    None where a transformed code or weight would leave its byte, or a pair of products 16 bits.

    Args:
        codes: weights [K, 3, 3, C].
        largest: code of the input.
    """
    weights = transformed(codes.astype(np.int64).transpose(0, 3, 1, 2))
    if 4 * largest > (127 if processor.signed else 255) or weights.min() < -128 or weights.max() > 127:
        return None
    if not processor.adds_16:
        return (0 if processor.signed else 2 * largest), 0
    count, inputs = weights.shape[:2]
    padded = np.zeros((count, inputs + -inputs % processor.group, 16), np.int64)
    padded[:, :inputs] = weights.reshape(count, inputs, 16)
    groups = padded.shape[1] // processor.group
    parts = padded.reshape(count, groups, processor.group // 2, 2, 16).transpose(4, 1, 0, 2, 3)
    run = longest_run(parts.reshape(16, groups, -1, 2), (groups,), 4 * largest)
    return (2 * largest, run) if run else None


@dataclass(frozen=True)
class Apart:
    """What machine code knows of the products of one filter a channel.

    Args:
        taps: type of the weights.
        narrow: all products of a window are added in 16 bits.
        signed: codes are read as int8.
    """

    taps: str
    narrow: bool
    signed: bool = False


def apart_mark(codes: np.ndarray, largest: int, processor: Processor) -> Apart | None:
    """How one filter a channel [K, R, S] is multiplied; None where its products do not fit."""
    if not (processor.channels_apart or processor.adds_16):
        return Apart(processor.taps, False)
    count, rows, columns = codes.shape
    whole = longest_run(codes.reshape(count, -1, 1, 1), (rows * columns,), largest) == rows * columns
    if processor.channels_apart:
        return Apart(processor.taps, whole, largest <= SIGNED)
    if whole:
        return Apart(processor.taps, True)
    quads = -(-columns // QUAD)
    padded = np.zeros((count, rows, quads * QUAD), np.int64)
    padded[..., :columns] = codes
    run = longest_run(padded.reshape(count, rows * quads, QUAD // 2, 2), (rows, quads), largest)
    return Apart(processor.taps, False) if run else None


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

    def of(self, channels: slice) -> Reach:
        """A part of the channels."""
        terms = tuple(term if len(term.multiplier) == 1 else replace(term, multiplier=term.multiplier[channels])
                      for term in self.rescale.terms)
        return replace(self, rescale=replace(self.rescale, terms=terms), least=self.least[channels],
                       largest=self.largest[channels])


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
    if max(-int(reach.least.min()), int(reach.largest.max())) > EXACT:
        return None
    codes, found = np.arange(reach.low + 1, reach.high + 1), []
    some = max(1, AT_ONCE // (len(reach.beside) * max(1, len(codes))))
    for first in range(0, len(reach.least), some):
        place = slice(first, first + some)
        found.append(_start_of(reach.of(place), [each if len(each) == 1 else each[place] for each in factors], codes))
    return None if any(each is None for each in found) else np.concatenate(found)


def _start_of(reach: Reach, factors: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray | None:
    """The same of a part of the channels."""
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
        if len(ratio) == 1 and (number or count == 1):
            fields.real(f"factor_{number}", ratio[0])
            continue
        factors[-1] = np.broadcast_to(factors[-1], (count,))
        each = np.zeros(len(lanes), np.float32)
        each[known] = factors[-1][lanes[known]]
        fields.add(f"factor_{number}", each.view(np.int32))

    def start() -> np.ndarray | None:
        found, padded = start_of(reach, factors), np.zeros(len(lanes), np.float32)
        if found is None:
            return None
        padded[known] = found[lanes[known]]
        return np.append(padded, np.zeros(-len(lanes) % LINE, np.float32)).view(np.int32)

    fields.later("start", len(lanes), start)
