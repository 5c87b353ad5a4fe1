"""Where a monotone function of an integer takes its steps, found for many channels at once, and where two such part.

A code rises with the sum that it is made of. So what a rescaling does with *every* sum of a range is said by its
thresholds: for each code the least sum that reaches it. Equal thresholds are equal codes, whatever the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Codes = Callable[[Tensor], Tensor]  # int64 numbers [n, *shape] -> whole codes of that shape, in any dtype
_WIDTHS = (4, 256)  # how far around a guess is looked before the whole range is
_AROUND = (1, 3)  # numbers on either side of a threshold at which the steps are checked to be steps
_SPREAD = 64  # numbers over the whole range at which they are


class NotMonotone(ValueError):
    """A function that falls somewhere has no thresholds."""


@dataclass(frozen=True)
class Range:
    """The numbers that are looked at, both ends included: int64 tensors of one shape."""

    least: Tensor
    largest: Tensor

    @property
    def count(self) -> int:
        """How many there are, of all channels together."""
        return int((self.largest - self.least + 1).sum())


@dataclass(frozen=True)
class Levels:
    """The codes that may be reached above the least one: `first ... first + count - 1`."""

    first: int
    count: int

    def along(self, rank: int) -> Tensor:
        """int64 [count, 1, ...] of `rank` axes."""
        return torch.arange(self.first, self.first + self.count).reshape(-1, *[1] * (rank - 1))


def levels_of(functions: tuple[Codes, ...], within: Range) -> Levels:
    """The levels that any of the functions reaches within the range."""
    low = min(int(codes(within.least[None]).min()) for codes in functions)
    high = max(int(codes(within.largest[None]).max()) for codes in functions)
    return Levels(low + 1, max(high - low, 0))


def find_thresholds(codes: Codes, within: Range, levels: Levels, guess: Tensor | None = None) -> Tensor:
    """int64 [levels, *shape]: the least number with at least that code; `largest + 1` where none has.

    Args:
        codes: does not fall; `check_steps` says so of what is found.
        guess: of that shape, near the thresholds; saves most evaluations.
    """
    shape = (levels.count, *within.least.shape)
    below, reached = (within.least - 1).expand(shape), (within.largest + 1).expand(shape)
    steps = levels.along(len(shape))
    if guess is None:
        return _bisect(codes, within, steps, below, reached)
    guess = torch.minimum(torch.maximum(guess, within.least), reached).contiguous()
    at, before = (_reaches(codes, within, steps, guess - less) for less in (0, 1))
    wrong = before | ~at
    if not bool(wrong.any()):
        return guess
    # Few levels of each channel were missed: they are packed together, whichever they are.
    rows = _packed(wrong)
    place, at, before, below, reached, steps = (
        each.expand(shape).gather(0, rows) for each in (guess, at, before, below, reached, steps))
    below = torch.where(before, below, torch.where(at, place - 1, place))
    reached = torch.where(before, place - 1, torch.where(at, place, reached))
    found = _bisect(codes, within, steps, *_narrowed(codes, within, steps, place, below, reached))
    return guess.scatter_(0, rows, found)


def _packed(wanted: Tensor) -> Tensor:
    """int64 [most, *shape]: of each channel the levels that are wanted, bool [levels, *shape]; then level 0."""
    flat = wanted.flatten(1)
    order = flat.cumsum(0)
    rows = torch.zeros(int(order[-1].max()), flat.shape[1], dtype=torch.int64)
    level, channel = flat.nonzero(as_tuple=True)
    rows[order[level, channel] - 1, channel] = level
    return rows.reshape(-1, *wanted.shape[1:])


def _bisect(codes: Codes, within: Range, steps: Tensor, below: Tensor, reached: Tensor) -> Tensor:
    """The thresholds, from numbers below them and numbers that reach them."""
    while bool((wide := reached - below > 1).any()):
        middle = torch.div(below + reached, 2, rounding_mode="floor")
        there = _reaches(codes, within, steps, middle)
        below, reached = (torch.where(wide & ~there, middle, below), torch.where(wide & there, middle, reached))
    return reached.contiguous()


def _narrowed(
    codes: Codes, within: Range, steps: Tensor, guess: Tensor, below: Tensor, reached: Tensor
) -> tuple[Tensor, Tensor]:
    """`below` and `reached` brought as near to the thresholds as a guess allows that missed some of them."""
    for width in _WIDTHS:
        for place in (guess - width, guess + width):
            there = _reaches(codes, within, steps, place)
            inside = (place > below) & (place < reached)
            below = torch.where(inside & ~there, place, below)
            reached = torch.where(inside & there, place, reached)
    return below, reached


def _reaches(codes: Codes, within: Range, steps: Tensor, numbers: Tensor) -> Tensor:
    """Whether `numbers` [levels, *shape] have at least the codes `steps`; all beyond the range do, none before it."""
    found = codes(torch.minimum(torch.maximum(numbers, within.least), within.largest)) >= steps
    return (found & (numbers >= within.least)) | (numbers > within.largest)


def check_steps(codes: Codes, within: Range, levels: Levels, found: Tensor, around: bool = True) -> None:
    """Look whether the function is what its thresholds say: all over the range, and `around` each of them.

    Raises:
        NotMonotone: it is not.
    """
    steps = levels.along(found.dim())
    for distance in _AROUND if around else ():
        far = _reaches(codes, within, steps, found + distance), _reaches(codes, within, steps, found - 1 - distance)
        if not bool(far[0].all()) or bool(far[1].any()):
            raise NotMonotone(f"codes fall within {distance} of a step")
    if bool((codes(_spread(within)).diff(dim=0) < 0).any()):
        raise NotMonotone("codes fall as the sum rises")


def _spread(within: Range) -> Tensor:
    """int64 [places, *shape]: places from the least number to the largest, each of them where the range is short."""
    width = within.largest - within.least
    parts = max(1, min(_SPREAD, int(width.max())))
    share = torch.arange(parts + 1, dtype=torch.int64).reshape(-1, *[1] * width.dim())
    whole, rest = torch.div(width, parts, rounding_mode="floor"), width % parts
    return within.least + whole * share + torch.div(rest * share, parts, rounding_mode="floor")


@dataclass(frozen=True)
class Parting:
    """The numbers to which two functions give different codes.

    Args:
        numbers: how many, of all channels together.
        channels: in how many channels there is one.
        max_lsb: the largest difference.
    """

    numbers: int = 0
    channels: int = 0
    max_lsb: int = 0

    def __add__(self, other: Parting) -> Parting:
        return Parting(self.numbers + other.numbers, self.channels + other.channels, max(self.max_lsb, other.max_lsb))


def parting(first: Tensor, second: Tensor) -> Parting:
    """What two functions with these thresholds differ in; of the levels of both, above one common code."""
    differing = (first != second).any(0)
    if not bool(differing.any()):
        return Parting()
    a, b = first[:, differing], second[:, differing]  # [levels, channels]
    # Between two neighbouring thresholds of either function, codes differ by how many more the first has passed.
    places, order = torch.cat([a, b]).sort(0)
    signs = torch.cat([torch.ones_like(a), -torch.ones_like(b)])
    ahead = signs.gather(0, order).cumsum(0)[:-1].abs()
    length = places.diff(dim=0)
    apart = (ahead > 0) & (length > 0)
    return Parting(int(length[apart].sum()), int(differing.sum()), int(ahead[apart].max()))


def ordered(numbers: Tensor) -> Tensor:
    """The finite float32 numbers in order, of int64 numbers -0x7f7fffff ... 0x7f7fffff; 0 is 0."""
    size = numbers.abs().to(torch.int32).view(torch.float32)
    return torch.where(numbers < 0, -size, size)


LARGEST_FLOAT = 0x7F7FFFFF  # `ordered` of it is the largest finite float32
