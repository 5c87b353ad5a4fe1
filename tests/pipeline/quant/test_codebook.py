"""Codebooks: int8 codes within the target's limit, and what a recipe must say beside them."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.quant.codebook import CodebookGrid


@pytest.mark.parametrize(("limit", "largest"), [(None, 127), (64, 64)])
def test_codes_are_those_of_int8_and_both_signs_have_as_many(limit, largest):
    grid = CodebookGrid.make(3, signed=True, limit=limit)
    assert (grid.qmin, grid.qmax, grid.nominal_bits) == (-largest, largest, 3)


@pytest.mark.parametrize(("symmetric", "per_channel"), [(False, True), (True, False)])
def test_a_codebook_is_symmetric_and_belongs_to_a_channel(symmetric, per_channel):
    with pytest.raises(ValueError, match="beside symmetric: true and granularity: per_channel"):
        CodebookGrid.check_rule(2, symmetric, per_channel)


def test_a_channel_has_as_many_values_as_its_bits_say():
    codes, bits = torch.tensor([[0, 0, 0, 0], [-5, 5, 5, -5], [-9, -2, 2, 9]]), torch.tensor([0, 1, 2])
    CodebookGrid().check_decided(codes, bits, 3)
    with pytest.raises(ValueError, match="channel 2 has 1 bits and 4 values"):
        CodebookGrid().check_decided(codes, torch.tensor([0, 1, 1]), 3)
    with pytest.raises(ValueError, match="channel 0 has 0 bits and 1 values"):
        CodebookGrid().check_decided(codes + 1, bits, 3)
