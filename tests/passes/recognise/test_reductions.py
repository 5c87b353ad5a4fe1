"""Softmax in parts, and means of flattened maps."""

from __future__ import annotations

import pytest
import torch

from tests.passes.recognise.recognised import names


def soft(x, axis):
    powers = torch.exp(x - x.amax(axis, keepdim=True))
    return powers / powers.sum(axis, keepdim=True)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda m, x: soft(x, -1), ["softmax"]),
        (lambda m, x: soft(x, 1), ["softmax"]),
        (lambda m, x: (y := x.exp()) / y.sum(1, keepdim=True), ["softmax"]),
        (lambda m, x: (y := x.exp()) / y.sum((1, 2), keepdim=True), ["exp", "sum", "div"]),
        (lambda m, x: (y := x.exp()) / (y.sum(1, keepdim=True) + y.mean((1, 2, 3), keepdim=True)), None),
        (lambda m, x: x.flatten(2).mean(-1), ["mean", "view"]),
        (lambda m, x: x.flatten(2).mean(-1, keepdim=True), ["mean", "view"]),
        (lambda m, x: x.flatten(2).mean(1), ["view", "mean_over_dims"]),
        (lambda m, x: x.reshape(-1, 4, 5, 6).flatten(1, 2).mean(-1), None),
    ],
)
def test_reductions(form, expected):
    found = names(form)
    assert found == expected if expected is not None else "softmax" not in found and "mean" not in found
