"""Which loops of a kernel threads share, where a module is run on several, and in how many parts.

A shared loop is cut into parts, and TVM's pool gives each thread its parts, in order: on one thread that is the loop as
it was. Scratch that is used only inside of the loop is each part's own. What was written before the loop all may read.
Two parts may write the same byte of the output, where the last tile is moved back to end with the map; they write the
same code there, so that it does not matter who is last.
"""

from __future__ import annotations

# Starting the threads and waiting for the last one takes a few microseconds. A layer of fewer products than these takes
# less than 50 on the x86 processors at hand: two threads would gain little, and lose where a core is not free.
LEAST_PRODUCTS = 4_000_000
# Each part takes its scratch anew, so they are few; what 2, 3, 4 and 6 threads share evenly.
PARTS = 12


def is_shared(products: int) -> bool:
    """Threads share a layer of so many products."""
    return products >= LEAST_PRODUCTS


def parts_of(count: int) -> int:
    """Into how many parts a loop of `count` is cut."""
    return min(count, PARTS)


def evenness(count: int) -> float:
    """How evenly 2, 3 and 4 threads share a loop of `count`: the mean part of the time in which they all work."""
    parts = parts_of(count)
    return sum(parts / (threads * -(-parts // threads)) for threads in (2, 3, 4)) / 3
