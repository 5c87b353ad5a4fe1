"""A cosine goes from one to nothing, and through a half in the middle."""

from __future__ import annotations

import pytest

from isobit.calib.rates import cosine_factor


def test_it_falls_from_one_to_nothing() -> None:
    found = [cosine_factor(step, 8) for step in range(9)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[4], found[8]) == (1.0, pytest.approx(0.5), 0.0)


def test_after_its_end_it_comes_back_up() -> None:
    assert cosine_factor(12, 8) == pytest.approx(cosine_factor(4, 8)) and cosine_factor(16, 8) == 1.0
