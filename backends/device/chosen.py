"""Codes that are chosen to bring every kernel to its ends, made of a few numbers: the same on every machine.

A network's own samples seldom bring its layers to their ends. So each layer is given codes that do, whatever the layer
before it would give:

    the least code, the largest, the code of zero, everywhere
    both ends in turn, as a chessboard, along the channels, and by chance
    one code in a channel, another in the next; any code by chance
    zero with a few largest codes, which show single weights
    for a layer, the codes at which the sum of one of its channels is largest, and least

The network's input gets numbers on its grid, halfway between two codes, and beyond its ends.

Shipped inside the `run.py` of targets that probe (see `backends.device.standalone`): numpy only, and the syntax of
Python 3.8. Chance is integer arithmetic of its own: numpy promises no equal numbers from one version to the next.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from isobit.pipeline.quant.pattern import Pattern

SAMPLES = 14
_FEW = 0.02  # of the codes in a sample that is zero elsewhere


class Chance:
    """Numbers by a name, so that a tensor's samples are the same whatever else is in the network.

    The sequence SplitMix64 gives from seed 0, from the place that the name's CRC-32 says, times 2^32.
    """

    def __init__(self, name: str) -> None:
        self._next = zlib.crc32(name.encode()) << 32

    def apart(self, shape: Sequence[int]) -> Chance:
        """The next numbers of a shape, by themselves: whether or not they are made, those after them are the same."""
        mine = Chance("")
        mine._next = self._next
        self._next += int(np.prod(shape, dtype=np.int64))
        return mine

    def below(self, count: int, shape: Sequence[int]) -> np.ndarray:
        """int64 of a shape, from 0 to `count` - 1 for a count of at most 2^32."""
        return ((self._bits(shape) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)

    def happens(self, share: float, shape: Sequence[int]) -> np.ndarray:
        """bool of a shape, true for about a `share` of it."""
        return self._bits(shape) < np.uint64(int(share * 2**32))

    def _bits(self, shape: Sequence[int]) -> np.ndarray:
        """uint64 of a shape, from 0 to 2^32 - 1."""
        count = int(np.prod(shape, dtype=np.int64))
        state = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(self._next)
        self._next += count
        state *= np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        return ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).reshape(tuple(shape))


def chosen_numbers(pattern: Pattern) -> np.ndarray:
    """float32 [SAMPLES, *shape] of an input: halves of steps from two steps before its grid to two after it."""
    low, high, zero = pattern.low, pattern.high, pattern.zero
    halves = Chance(pattern.name).below(2 * (high - low) + 9, (SAMPLES, *pattern.shape)) + (2 * low - 4)
    halves[0], halves[1], halves[2] = 2 * low, 2 * high, 2 * zero
    return (halves / 2 - zero).astype(np.float32) * np.float32(1 if pattern.scale is None else pattern.scale)


def chosen_codes(pattern: Pattern, rows: Sequence[int] = range(SAMPLES)) -> np.ndarray:
    """uint8 [rows, *shape] of one tensor: of all samples, or of some, each of which is named once."""
    low, high, shape, chance = np.uint8(pattern.low), np.uint8(pattern.high), pattern.shape, Chance(pattern.name)
    zero, count = np.uint8(min(max(pattern.zero, pattern.low), pattern.high)), pattern.high - pattern.low + 1
    places = [np.arange(size).reshape([-1] + [1] * (len(shape) - axis - 1)) for axis, size in enumerate(shape)]
    odd = np.broadcast_to(sum(places) % 2 == 1 if places else np.asarray(False), shape)
    in_turn = np.broadcast_to(places[0] % 2 == 1 if places else np.asarray(True), shape)
    channels = places[0].shape if places else ()
    up = chance.apart(shape).happens(0.5, shape) if pattern.up is None else pattern.up

    def seldom(share: float, rest: np.uint8) -> Callable[[], np.ndarray]:
        mine = chance.apart(shape)
        return lambda: np.where(mine.happens(share, shape), high, rest)

    def any_code(size: Sequence[int]) -> Callable[[], np.ndarray]:
        mine = chance.apart(size)
        return lambda: np.broadcast_to(low + mine.below(count, size).astype(np.uint8), shape)

    makers = [
        lambda: np.full(shape, low), lambda: np.full(shape, high), lambda: np.full(shape, zero),
        lambda: np.where(odd, high, low), lambda: np.where(odd, low, high), lambda: np.where(in_turn, high, low),
        seldom(0.5, low), seldom(_FEW, zero),
        lambda: np.where(up, high, low), lambda: np.where(up, low, high), any_code(channels), any_code(channels),
        any_code(shape), any_code(shape),
    ]
    return _settled(np.stack([makers[row]() for row in rows]), pattern.multiples)


def _settled(codes: np.ndarray, multiples: Sequence[int] | None) -> np.ndarray:
    """Codes [N, C, ...], each the nearest multiple of its channel's; `pipeline.quant.nested` says why none is between
    two.
    """
    if multiples is None:
        return codes
    steps = np.asarray(multiples, np.int64).reshape([-1] + [1] * (codes.ndim - 2))
    return ((2 * codes.astype(np.int64) + steps) // (2 * steps) * steps).astype(np.uint8)
