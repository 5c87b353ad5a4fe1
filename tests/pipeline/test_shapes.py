"""Sizes that the batch does not change."""

from __future__ import annotations

import pytest

from isobit.pipeline.shapes import known_sizes


def test_known_sizes_hold_no_batch():
    assert known_sizes((4, 6, 6)) == (4, 6, 6) and known_sizes(()) == ()
    with pytest.raises(ValueError, match="only the batch may vary"):
        known_sizes((None, 4))
