"""Tile sizes from the register budget: which block of pixels and output channels a convolution keeps in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isobit.backends.tvm.instructions.base import InstructionSet

MOST_VECTORS, MOST_COLUMNS = 8, 32  # of output channels; of pixels
FIRST_CACHE = 32 * 1024  # bytes of weights beyond which they come from the second cache for every tile

INSTRUCTIONS_PER_CYCLE = 4  # of vectors
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
    height: int, width: int, vectors: int, steps: Callable[[int], int], e: InstructionSet, most: int = MOST_VECTORS,
    one_loop: bool = False, columns: int = MOST_COLUMNS,
) -> Tile:
    """The tile of the fewest estimated cycles; between equals the one with fewer registers.

    Args:
        height, width: of the output.
        vectors: of output channels in all; a tile takes a divisor.
        steps: dot products that one sum takes, given the tile's vectors.
        e: instruction set.
        most: vectors of a tile.
        one_loop: the reduction is one loop. There, weights of a single pixel stay operands in memory; of nested loops,
            which the compiler unrolls, it keeps them in registers, or moves them to the stack and back.
        columns: of a tile, at most.
    """
    def in_memory(pixels: int) -> bool:
        return one_loop and pixels == 1

    tiles = [
        Tile(rows, across, count)
        for count in range(1, min(vectors, most) + 1) if vectors % count == 0
        for rows in range(1, min(height, e.registers) + 1)
        for across in range(1, min(width, columns, e.registers // rows) + 1)
        if rows * across * count + (0 if in_memory(rows * across) else count) <= e.registers
        or rows * across * count == 1
    ]

    def cost(tile: Tile) -> tuple[float, int]:
        loaded = 0 if in_memory(tile.rows * tile.columns) else tile.vectors
        return _cycles(tile, (height, width, vectors), steps(tile.vectors), loaded, e), tile.sums

    return min(tiles, key=cost)


def _cycles(tile: Tile, output: tuple[int, int, int], steps: int, loaded: int, e: InstructionSet) -> float:
    """Estimated cycles of a layer; `loaded` are vectors of weights that come into registers first."""
    height, width, vectors = output
    pixels = tile.rows * tile.columns
    streamed = tile.vectors / 2 if steps * tile.vectors * e.lanes * e.group * e.operand_bytes > FIRST_CACHE else 0
    instructions = tile.sums * e.instructions_per_dot + pixels + loaded
    step = max(tile.sums / e.dots_per_cycle, (pixels + tile.vectors) / e.loads_per_cycle, e.latency,
               instructions / INSTRUCTIONS_PER_CYCLE) + streamed
    # The compiler unrolls a short reduction whole and wants all its weights in registers beside the sums; moving what
    # does not fit costs more than the smaller tile that would.
    spilled = max(0, tile.sums + tile.vectors * steps - e.registers) if steps <= UNROLLED else 0
    neighbours = next(count for count in (4, 2, 1) if tile.vectors % count == 0)
    stores = tile.sums / (4 if tile.vectors == vectors else neighbours)
    calls = -(-height // tile.rows) * -(-width // tile.columns) * (vectors // tile.vectors)
    return calls * (steps * step + REQUANTIZATION * tile.sums + STORE * stores + SPILL * spilled + OVERHEAD)
