"""Tile sizes from the register budget: which block of pixels and output channels a convolution keeps in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isobit.backends.tvm.instructions.base import InstructionSet

MOST_VECTORS = 8  # of output channels
FIRST_CACHE = 32 * 1024  # bytes of weights beyond which they come from the second cache for every tile

UNROLLED = 9  # dot products of one sum that are unrolled
# Cycles: for each sum, each store (of neighbours in memory), each register too many, each tile.
REQUANTIZATION, STORE, SPILL, OVERHEAD = 4, 2, 12, 10


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


def choose_tile(
    height: int, width: int, vectors: int, steps: Callable[[int], int], e: InstructionSet, most: int = MOST_VECTORS
) -> Tile:
    """The tile of the fewest estimated cycles; between equals the one with fewer registers.

    Args:
        height, width: of the output.
        vectors: of output channels in all; a tile takes a divisor.
        steps: dot products that one sum takes, given the tile's vectors.
        e: instruction set.
        most: vectors of a tile.
    """
    tiles = [
        Tile(rows, columns, count)
        for count in range(1, min(vectors, most) + 1) if vectors % count == 0
        for rows in range(1, min(height, e.registers) + 1)
        for columns in range(1, min(width, e.registers // rows) + 1)
        if rows * columns * count + count <= e.registers or rows * columns * count == 1
    ]
    return min(tiles, key=lambda tile: (_cycles(tile, height, width, vectors, steps(tile.vectors), e), tile.sums))


def _cycles(tile: Tile, height: int, width: int, vectors: int, steps: int, e: InstructionSet) -> float:
    pixels = tile.rows * tile.columns
    streamed = tile.vectors / 2 if steps * tile.vectors * e.lanes * e.group * e.operand_bytes > FIRST_CACHE else 0
    step = max(tile.sums / e.dots_per_cycle, (pixels + tile.vectors) / e.loads_per_cycle, e.latency) + streamed
    # The compiler unrolls a short reduction whole and wants all its weights in registers beside the sums; moving what
    # does not fit costs more than the smaller tile that would.
    spilled = max(0, tile.sums + tile.vectors * steps - e.registers) if steps <= UNROLLED else 0
    neighbours = next(count for count in (4, 2, 1) if tile.vectors % count == 0)
    stores = tile.sums / (4 if tile.vectors == vectors else neighbours)
    calls = -(-height // tile.rows) * -(-width // tile.columns) * (vectors // tile.vectors)
    return calls * (steps * step + REQUANTIZATION * tile.sums + STORE * stores + SPILL * spilled + OVERHEAD)
