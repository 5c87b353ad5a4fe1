"""Chosen codes reach their ends, and are the same whatever makes them."""

import hashlib

import numpy as np
import pytest
import torch

from isobit.backends.device.chosen import SAMPLES, Chance, chosen_codes, chosen_numbers
from isobit.backends.execution.codes import CodeGrid
from isobit.pipeline.quant.nested import nested_multiples
from isobit.pipeline.quant.pattern import Pattern

PATTERN = Pattern("relu_q", (4, 9, 5), 3, 250, 100)


def test_chance_is_the_published_sequence():
    """The first numbers of SplitMix64 with seed 0, as its author's code gives them; the CRC-32 of no name is 0."""
    first = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    chance = Chance("")
    assert chance.below(2**32, (2,)).tolist() + chance.below(2**32, (1,)).tolist() == [number >> 32 for number in first]


def test_every_number_is_as_likely_as_another():
    numbers = Chance("many").below(5, (200, 500))
    assert np.abs(np.bincount(numbers.ravel(), minlength=5) / numbers.size - 0.2).max() < 0.01
    assert abs(Chance("few").happens(0.02, (100_000,)).mean() - 0.02) < 0.003
    assert not np.array_equal(Chance("one").below(256, (9,)), Chance("other").below(256, (9,)))


def test_the_bytes_are_those_that_were_built():
    """Artifacts hold digests of what layers give for these very codes: they may never change."""
    codes, numbers = chosen_codes(PATTERN), chosen_numbers(Pattern("input", (3, 4), 0, 255, 9, scale=0.25))
    assert hashlib.sha256(codes.tobytes()).hexdigest()[:16] == "83c5a154d3ea1589"
    assert hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest()[:16] == "f9d7bafbbe3f742c"


def test_the_rows_are_what_they_are_said_to_be():
    up = np.arange(180).reshape(4, 9, 5) % 7 == 0
    codes = chosen_codes(Pattern("q", (4, 9, 5), 3, 250, 100, up=up))
    assert codes.dtype == np.uint8 and codes.shape == (SAMPLES, 4, 9, 5)
    assert [set(row.ravel()) for row in codes[:3]] == [{3}, {250}, {100}]
    assert all(set(row.ravel()) == {3, 250} for row in codes[3:7]) and set(codes[7].ravel()) == {100, 250}
    assert np.array_equal(codes[3] == 250, codes[4] == 3) and codes[3, 0, 0, 0] == 3 and codes[3, 0, 0, 1] == 250
    assert np.array_equal(codes[5] == 250, np.broadcast_to(np.arange(4)[:, None, None] % 2 == 1, (4, 9, 5)))
    assert np.array_equal(codes[8] == 250, up) and np.array_equal(codes[9] == 3, up)
    assert all((row == row[:, :1, :1]).all() for row in codes[10:12]) and len(np.unique(codes[12:])) > 150


@pytest.mark.parametrize("multiples", [None, (105, 35, 15, 7)])
@pytest.mark.parametrize("up", [None, np.arange(180).reshape(4, 9, 5) % 7 == 0])
def test_some_samples_are_those_of_all(up, multiples):
    pattern = Pattern("q", (4, 9, 5), 0, 105, 0, multiples, up)
    whole = chosen_codes(pattern)
    for rows in ([row] for row in range(SAMPLES)):
        assert np.array_equal(chosen_codes(pattern, rows), whole[rows])
    assert np.array_equal(chosen_codes(pattern, range(5, 13)), whole[5:13])


def test_a_number_alone_and_a_zero_beyond_the_grid_have_codes():
    codes = chosen_codes(Pattern("q", (), 4, 6, 0))
    assert codes.shape == (SAMPLES,) and codes[2] == 4 and (codes.min(), codes.max()) == (4, 6)


@pytest.mark.parametrize("bits", [(0, 1, 2, 3, 4)])
def test_nested_codes_are_those_of_the_grid(bits):
    multiples = nested_multiples(torch.tensor(bits))
    grid = CodeGrid(torch.tensor(0.1), 0, 0, 105, multiples.reshape(-1, 1, 1))
    given = Pattern("q", (5, 6, 6), 0, 105, 0)
    plain, codes = chosen_codes(given), chosen_codes(Pattern("q", (5, 6, 6), 0, 105, 0, tuple(multiples.tolist())))
    assert torch.equal(grid.settle(torch.from_numpy(plain).float()), torch.from_numpy(codes).float())


def test_numbers_lie_on_between_and_beyond_codes():
    numbers = chosen_numbers(Pattern("input", (40, 40), 10, 20, 12, scale=0.5)) / 0.5 + 12
    assert numbers.dtype == np.float32 and (numbers.min(), numbers.max()) == (8, 22)
    assert [set(row.ravel()) for row in numbers[:3]] == [{10}, {20}, {12}]
    assert set((numbers % 1).ravel()) == {0, 0.5}
