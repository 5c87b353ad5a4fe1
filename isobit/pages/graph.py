"""The network as a drawing: steps in ranks from top to bottom, connections that skip ranks at the side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from isobit.pages.layers import Row

WIDTH, HEIGHT = 300, 44  # of a box
GAP_X, GAP_Y = 20, 22
LANE = 9  # between connections at the side
MOST_LANES = 12
EDGE = 6  # around everything
LETTERS = 27  # of a text in a box


@dataclass(frozen=True)
class PlacedBox:
    """A step at its place, in pixels."""

    x: int
    y: int
    row: Row
    title: str
    what: str


@dataclass(frozen=True)
class Drawing:
    """The whole: `paths` are connections."""

    width: int
    height: int
    boxes: tuple[PlacedBox, ...]
    paths: tuple[str, ...]


def draw_network(rows: Sequence[Row]) -> Drawing:
    """Every row at its rank: one below the last of those that it reads."""
    ranks: dict[str, int] = {}
    for row in rows:
        ranks[row.node.name] = 1 + max((ranks[name] for name in row.node.reads if name in ranks), default=-1)
    columns: dict[int, int] = defaultdict(int)
    places: dict[str, tuple[int, int]] = {}
    for row in rows:
        rank = ranks[row.node.name]
        places[row.node.name] = (EDGE + columns[rank] * (WIDTH + GAP_X), EDGE + rank * (HEIGHT + GAP_Y))
        columns[rank] += 1
    boxes = tuple(PlacedBox(*places[row.node.name], row, shortened(row.name), shortened(row.node.op)) for row in rows)
    paths, right = _connections(rows, ranks, places, columns)
    right = max([right, *(x + WIDTH for x, _ in places.values())])
    bottom = max((y for _, y in places.values()), default=0) + HEIGHT
    return Drawing(right + EDGE, bottom + EDGE, boxes, tuple(paths))


def shortened(text: str) -> str:
    """The end of a text that is too long for a box: paths of modules differ there."""
    return text if len(text) <= LETTERS else f"…{text[1 - LETTERS:]}"


def _connections(
    rows: Sequence[Row], ranks: dict[str, int], places: dict[str, tuple[int, int]], columns: dict[int, int]
) -> tuple[list[str], int]:
    """Paths, and how far to the right they go; one that skips ranks passes at the right of all boxes between."""
    paths, busy = [], [-1] * MOST_LANES  # the last rank that each lane is taken to
    most = 0
    for row in rows:
        x1, y1 = places[row.node.name]
        for name in row.node.reads:
            if name not in places:
                continue
            x0, y0 = places[name]
            first, last = ranks[name], ranks[row.node.name]
            if last - first == 1:
                top, low, middle = y0 + HEIGHT, y1, (y0 + HEIGHT + y1) // 2
                a, b = x0 + WIDTH // 2, x1 + WIDTH // 2
                paths.append(f"M{a} {top}V{low}" if a == b else f"M{a} {top}C{a} {middle} {b} {middle} {b} {low}")
                continue
            lane = next((place for place, taken in enumerate(busy) if taken <= first), MOST_LANES - 1)
            busy[lane] = max(busy[lane], last)
            beside = max(columns[rank] for rank in range(first, last + 1))
            side = EDGE + beside * (WIDTH + GAP_X) - GAP_X + (lane + 1) * LANE
            most = max(most, side)
            start, end = y0 + HEIGHT // 2 + 6, y1 + HEIGHT // 2 - 6
            paths.append(f"M{x0 + WIDTH} {start}H{side - 4}q4 0 4 4V{end - 4}q0 4 -4 4H{x1 + WIDTH}")
    return paths, most
