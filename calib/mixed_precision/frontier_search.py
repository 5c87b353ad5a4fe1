"""Which point of a frontier passes a test that is expensive: bisection by size, a few tries at most.

A frontier has thousands of choices of bits, each of them the best of its size by sensitivities. Whether one passes is
known only after a calibration. Larger ones lose less, but for chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

FINE = 1.01  # by default


def smallest_passing(
    sizes: Sequence[float], passes: Callable[[int], bool], tries: int, first: int | None = None,
    fine: float = FINE,
) -> int | None:
    """The smallest point that was tried and passes; None where none of those tried does.

    Sizes are halved on a logarithmic scale. The largest point is the last hope where nothing smaller passes.

    Args:
        sizes: strictly rising.
        passes: the test of one point; called at most `tries` times, at most once for each.
        first: the point that is tried first; None for the one in the middle.
        fine: ratio of two sizes between which nothing is looked for.
    """
    low, high, top = -1, None, len(sizes) - 1
    tried: set[int] = set()
    while len(tried) < tries and (high is None or high - low > 1):
        above = top if high is None else high
        if not tried and first is not None:
            point = first
        elif high is None and (len(tried) == tries - 1 or low >= top - 1):
            point = top
        else:
            point = _middle(sizes, low, above)
            if high is not None and sizes[high] <= fine * sizes[point]:
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
