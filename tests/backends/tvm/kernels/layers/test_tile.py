"""Tiles from the register budget."""

import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layers.tile import choose_tile
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("flavour", ["vnni512", "vnni256", "avx2", "sdot", "lanes"])
@pytest.mark.parametrize(("height", "width", "vectors"), [(56, 56, 4), (7, 7, 32), (1, 1, 63), (3, 40, 7), (1, 1, 1)])
def test_tiles_fit_map_and_registers(flavour, height, width, vectors):
    harness.needs_tvm()
    e = instruction_set(flavour)
    tile = choose_tile(height, width, vectors, lambda count: 144, e)
    assert tile.rows <= height
    assert tile.columns <= width
    assert vectors % tile.vectors == 0
    assert tile.sums == tile.rows * tile.columns * tile.vectors
    assert tile.sums + tile.vectors <= e.registers or tile.sums == 1


def test_a_large_map_fills_the_registers():
    harness.needs_tvm()
    e = instruction_set("vnni512")
    assert choose_tile(56, 56, 4, lambda count: 144, e).sums >= 20


def test_one_pixel_takes_several_vectors():
    harness.needs_tvm()
    assert choose_tile(1, 1, 64, lambda count: 128, instruction_set("vnni512")).vectors >= 4
