"""Bits of each channel: what may be chosen, and what their average is."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.nested import NestedGrid

BOTH = pytest.mark.parametrize("grid", [CodebookGrid(average=3), NestedGrid(average=3)], ids=lambda grid: grid.kind)


@BOTH
def test_bits_are_an_average(grid):
    assert grid.nominal_bits == 3 and grid.suffix == f" {grid.kind}" and grid.describe(True) == grid.kind
    assert grid.mean_bits([0, 4, 3]) == pytest.approx(7 / 3) and grid.mean_bits(None) == grid.bits


@BOTH
@pytest.mark.parametrize("bits", [[5], [-1], [[2]]])
def test_bits_that_do_not_exist(grid, bits):
    with pytest.raises(ValueError, match="0 to 4"):
        grid.check_channel_bits(torch.tensor(bits))


@BOTH
@pytest.mark.parametrize(("bits", "words"), [(None, "no bits for 3"), (torch.ones(2), "2 bits for 3 channels")])
def test_every_channel_has_bits_when_they_are_decided(grid, bits, words):
    with pytest.raises(ValueError, match=words):
        grid.check_decided(None, bits, 3)
    grid.check_decided(None, torch.ones(3), 3)
