"""Nested grids: the published multiples, and a second rounding that has no ties."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from isobit.pipeline.quant.nested import NESTED_CODES, NestedGrid, nested_multiples, regrid


def test_nested_multiples_are_the_published_ones_and_odd():
    multiples = nested_multiples(torch.tensor([1, 2, 3, 4, 0]))
    assert multiples.tolist()[:4] == [105, 35, 15, 7] and bool((multiples % 2 == 1).all())
    assert not regrid(torch.arange(106.0).reshape(1, 1, -1), multiples[4:]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_regridding_has_no_ties_and_is_rounding_at_once_except_at_exact_ties(dtype):
    """x / scale in steps of 1/64, against exact fractions: only halves of the fine grid may go either way."""
    bits = torch.arange(5)
    multiples = nested_multiples(bits).tolist()
    ratios = [Fraction(n, 64) for n in range(-64, 108 * 64)]
    codes = torch.tensor([min(max(round(r), 0), NESTED_CODES) for r in ratios], dtype=dtype)
    got = regrid(codes.expand(1, 5, -1), nested_multiples(bits))[0]
    ties = 0
    for channel, multiple in enumerate(multiples):
        for code, result in zip(codes.tolist(), got[channel].tolist(), strict=True):
            assert Fraction(int(code), multiple) % 1 != Fraction(1, 2)
            assert result == multiple * round(Fraction(int(code), multiple))
        for ratio, result in zip(ratios, got[channel].tolist(), strict=True):
            exact = min(max(ratio, 0), NESTED_CODES) / multiple
            if exact % 1 == Fraction(1, 2):
                ties += 1
                assert abs(result / multiple - exact) == 0.5
            else:
                assert result == multiple * round(exact)
    assert ties == 1 + 3 + 7 + 15


def test_every_number_of_bits_lies_on_one_grid():
    grid = NestedGrid.make(2, signed=False)
    assert (grid.qmin, grid.qmax, grid.nominal_bits) == (0, NESTED_CODES, 2)
    codes = torch.arange(NESTED_CODES + 1.0).expand(1, 5, -1)
    settled = grid.settle(codes, grid.multiples(torch.arange(5)))
    assert [len(row.unique()) for row in settled[0]] == [1, 2, 4, 8, 16]
    assert grid.settle(codes, None) is codes  # before bits are chosen
