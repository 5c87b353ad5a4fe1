"""Sizes that the batch does not change."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.shapes import known_sizes, positions


def test_known_sizes_hold_no_batch():
    assert known_sizes((4, 6, 6)) == (4, 6, 6) and known_sizes(()) == ()
    with pytest.raises(ValueError, match="only the batch may vary"):
        known_sizes((None, 4))


def test_positions_are_what_follows_samples_and_channels():
    assert [positions(torch.zeros(shape)) for shape in ((2,), (2, 3), (2, 3, 5), (2, 3, 4, 5))] == [1, 1, 5, 20]
