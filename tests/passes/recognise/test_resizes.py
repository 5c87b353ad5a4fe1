"""Pixels repeated by shapes are a resize."""

from __future__ import annotations

import pytest

from tests.passes.recognise.recognised import names


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda m, x: x.reshape(-1, 4, 6, 1, 5, 1).expand(-1, 4, 6, 2, 5, 3).reshape(-1, 4, 12, 15),
         ["upsample_nearest2d"]),
        (lambda m, x: x[:, :, :, None, :, None].repeat(1, 1, 1, 2, 1, 2).reshape(-1, 4, 12, 10),
         ["upsample_nearest2d"]),
        (lambda m, x: x.reshape(-1, 4, 1, 6, 1, 5).expand(-1, 4, 2, 6, 2, 5).reshape(-1, 4, 12, 10),
         ["view", "expand", "view"]),
        (lambda m, x: x.reshape(-1, 4, 6, 1, 5, 1).expand(-1, 4, 6, 2, 5, 2).reshape(-1, 4, 10, 12),
         ["view", "expand", "view"]),
    ],
)
def test_repetition(form, expected):
    assert names(form) == expected
