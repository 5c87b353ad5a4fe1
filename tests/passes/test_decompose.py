"""Decompositions: the operators that integer runtimes have, numbers equal to float32 rounding, idempotent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes.canonicalize import canonicalize
from passes.decompose import decompose
from pipeline.graph import module_path, tensor_shape
from tests import nets


class Pooled(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (F.hardswish, (4, 6, 6), ["hardsigmoid", "mul"]),
        (F.silu, (4, 6, 6), ["sigmoid", "mul"]),
        (lambda x: F.adaptive_avg_pool2d(x, 1), (4, 6, 5), ["mean"]),
        (lambda x: F.adaptive_avg_pool2d(x, (3, None)), (4, 6, 6), ["avg_pool2d"]),
        (lambda x: F.adaptive_avg_pool2d(x, 6) + x, (4, 6, 6), ["add"]),
        (lambda x: F.adaptive_avg_pool2d(x, 4), (4, 6, 6), ["adaptive_avg_pool2d"]),
        (lambda x: F.adaptive_avg_pool2d(x, 12), (4, 6, 6), ["adaptive_avg_pool2d"]),
        (lambda x: F.avg_pool2d(x, 6), (4, 6, 6), ["mean"]),
        (lambda x: F.avg_pool2d(x, (5, 4)), (4, 6, 6), ["slice", "slice", "mean"]),
        (lambda x: F.avg_pool2d(x, 3), (4, 6, 6), ["avg_pool2d"]),
        (lambda x: F.avg_pool2d(x, 4, padding=1, stride=4), (4, 5, 5), ["avg_pool2d"]),
        (lambda x: x.mean((2, 3)), (4, 6, 6), ["mean", "view"]),
        (lambda x: x.mean([-1, -2]), (4, 6, 6), ["mean", "view"]),
        (lambda x: x.mean((2, 3), keepdim=True), (4, 6, 6), ["mean"]),
        (lambda x: x.mean(1), (4, 6, 6), ["mean_over_dims"]),
        (lambda x: x.mean((1, 2)), (4, 6, 6), ["mean_over_dims"]),
        (lambda x: torch.stack([x, x.neg()], -1), (4, 6), ["neg", "view", "view", "cat"]),
        (lambda x: torch.hstack([x, x.neg()]), (4, 6), ["neg", "cat"]),
        (lambda x: x[:, :, -2], (4, 6, 6), ["slice", "view"]),
    ],
)
def test_expected_operators_and_equal_numbers(function, shape, expected):
    stage, x = nets.captured_of(Pooled(function), *shape)
    graph = stage.graph
    canonicalize(graph)
    before = nets.run(graph, x)
    decompose(graph)
    assert nets.operators(graph) == expected
    torch.testing.assert_close(nets.run(graph, x), before, rtol=1e-6, atol=1e-6)
    after = nets.snapshot(graph)
    assert not decompose(graph)
    assert not canonicalize(graph)
    assert nets.snapshot(graph) == after


def test_inserted_nodes_carry_module_and_shape():
    graph = nets.captured_net("squeeze")[0].graph
    canonicalize(graph)
    assert decompose(graph)
    assert module_path(nets.find(graph, "hardsigmoid")) == "stem.2"
    assert module_path(nets.find(graph, "mul")) == "stem.2"
    assert tensor_shape(nets.find(graph, "mean")) == (None, 8, 1, 1)
