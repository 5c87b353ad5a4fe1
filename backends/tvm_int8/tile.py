"""Tile sizes from the register budget: which block of pixels and output channels a convolution keeps in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backends.tvm_int8.expressions import Expressions

MOST_VECTORS = 8  # of output channels
FIRST_CACHE = 32 * 1024  # bytes of weights beyond which they come from the second cache for every tile


@dataclass(frozen=True)
class Tile:
    """Rows and columns of output pixels, and vectors of output channels."""

    rows: int
    columns: int
    vectors: int

    @property
    def sums(self) -> int:
        """Accumulators."""
        return self.rows * self.columns * self.vectors


def choose_tile(height: int, width: int, vectors: int, steps: Callable[[int], int], e: Expressions) -> Tile:
    """The tile of the fewest estimated cycles; between equals the one with fewer registers.

    Args:
        height, width: of the output.
        vectors: of output channels in all; a tile takes a divisor.
        steps: dot products that one sum takes, given the tile's vectors.
        e: instruction set.
    """
    tiles = [
        Tile(rows, columns, count)
        for count in range(1, min(vectors, MOST_VECTORS) + 1) if vectors % count == 0
        for rows in range(1, min(height, e.accumulators) + 1)
        for columns in range(1, min(width, e.accumulators) + 1)
        if rows * columns * count <= e.accumulators
    ]
    return min(tiles, key=lambda tile: (_cycles(tile, height, width, vectors, steps(tile.vectors), e), tile.sums))


def _cycles(tile: Tile, height: int, width: int, vectors: int, steps: int, e: Expressions) -> float:
    pixels = tile.rows * tile.columns
    streamed = 2 * tile.vectors if steps * tile.vectors * e.lanes * 4 > FIRST_CACHE else 0
    step = max(tile.sums / e.dots_per_cycle, (pixels + tile.vectors) / e.loads_per_cycle, e.latency, streamed)
    calls = -(-height // tile.rows) * -(-width // tile.columns) * (vectors // tile.vectors)
    return calls * (steps * step + 4 * tile.sums + 10)
