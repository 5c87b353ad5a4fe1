"""Which point of a frontier passes a test that is expensive: guesses and bisection by size, a few tries at most.

A frontier has thousands of choices of bits, each of them the best of its size by sensitivities. Whether one passes is
known only after a calibration. Larger ones lose less, but for chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

FINE = 1.01  # by default
Guess = Callable[[int | None, int | None], int | None]


def smallest_passing(
    sizes: Sequence[float], passes: Callable[[int], bool], tries: int, guess: Guess = lambda failed, passed: None,
    fine: float = FINE,
) -> int | None:
    """The smallest point that was tried and passes; None where none of those tried does.

    Every other try, the first one too, is the caller's guess; the others halve sizes on a logarithmic scale, so that
    guesses which are wrong cost no more than twice as many. The largest point is the last hope where nothing smaller
    passes; a single try is the guess.

    Args:
        sizes: strictly rising.
        passes: the test of one point; called at most `tries` times, at most once for each.
        guess: where the smallest that passes may lie, of the largest point that was tried and failed and the smallest
            that passed, each None before there is one. None for the middle, as for a point that is not between them.
        fine: ratio of two sizes between which nothing is looked for.
    """
    low, high, top = -1, None, len(sizes) - 1
    tried: set[int] = set()
    while len(tried) < tries and (high is None or high - low > 1):
        above = top if high is None else high
        guessed = guess(None if low < 0 else low, high) if len(tried) % 2 == 0 else None
        last_hope = high is None and (len(tried) == tries - 1 or low >= top - 1)
        usable = guessed is not None and low < guessed < (top + 1 if high is None else high)
        if guessed is not None and usable and not (last_hope and tried):
            point = guessed
        elif last_hope:
            point = top
        else:
            point = _middle(sizes, low, above)
        if high is not None and sizes[high] <= fine * sizes[max(low, 0)]:
            break
        if point in tried:
            break
        tried.add(point)
        if passes(point):
            high = point
        else:
            low = point
            if point == top:
                break
    return high


def _middle(sizes: Sequence[float], low: int, high: int) -> int:
    """The point strictly between two whose size is nearest to their geometric mean; the upper where none lies there."""
    begin = max(low, 0)
    wanted = math.sqrt(max(sizes[begin], 1e-9) * max(sizes[high], 1e-9))
    between = range(low + 1, high)
    return min(between, key=lambda place: abs(math.log(max(sizes[place], 1e-9) / wanted)), default=high)
