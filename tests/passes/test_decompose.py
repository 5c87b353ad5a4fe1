"""Decompositions: the operators that integer runtimes have, numbers equal to float32 rounding, idempotent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.passes.canonicalize import canonicalize
from isobit.passes.decompose import decompose
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import module_path, tensor_shape
from tests.examples import nets


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
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), (4, 6, 6), ["avg_pool2d", "mul_constant"]),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, True, divisor_override=5), (4, 6, 5),
         ["pad", "avg_pool2d", "mul_constant"]),
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


INF = -torch.inf


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("window", "pads", "own"), [
    ((3, 2, 1), (0, 1, 0, 1), 0), ((3, 2, 1), (1, 0, 0, 0), 0), ((3, 2, 1), (1, 1, 1, 1), 0),
    ((2, 2, 1), (1, 0, 1, 0), 0), ((3, 1, 1), (0, 1, 1, 0), 0), ((5, 2, 1), (0, 1, 1, 2), 1),
    ((3, 1, 2), (1, 0, 1, 1), 0), ((2, 1, 1), (0, 1, 0, 1), 0),
])
def test_a_max_pool_takes_up_a_border_below_everything(size, window, pads, own):
    kernel, stride, dilation = window
    stage, x = nets.captured_of(
        Pooled(lambda x: F.max_pool2d(F.pad(x, pads, value=INF), kernel, stride, own, dilation)), 2, size, size + 1
    )
    canonicalize(stage.graph)
    before = nets.run(stage.graph, x)
    assert decompose(stage.graph)
    assert torch.equal(nets.run(stage.graph, x), before)
    assert set(nets.operators(stage.graph)) <= {"max_pool2d", "slice"}
    assert not decompose(stage.graph)


@pytest.mark.parametrize(("function", "taken"), [
    (lambda x: F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1), value=-3.0), 3, 2), True),
    (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=torch.finfo(torch.float32).min), 3, 2), True),
    (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-0.5), 3, 2), False),      # some values are less
    (lambda x: F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1), value=0.5), 3, 2), False),
    (lambda x: F.avg_pool2d(F.pad(F.relu(x), (0, 1, 0, 1), value=-3.0), 3, 2), False),
    (lambda x: (y := F.pad(F.relu(x), (0, 1, 0, 1), value=-3.0)).sum((1, 2, 3), keepdim=True) + F.max_pool2d(y, 3, 2),
     False),
])
def test_only_a_border_that_no_value_is_below_is_taken(function, taken):
    stage, x = nets.captured_of(Pooled(function), 2, 6, 6)
    canonicalize(stage.graph)
    before = nets.run(stage.graph, x)
    decompose(stage.graph)
    torch.testing.assert_close(nets.run(stage.graph, x), before)
    assert ("pad_with_value" not in nets.operators(stage.graph)) == taken


@pytest.mark.parametrize("function", [
    lambda x: F.max_pool2d(F.pad(x, (3, 3, 3, 3), value=INF), 3, 1),  # windows in the border alone
    lambda x: F.relu(F.pad(x, (1, 1, 1, 1), value=INF)),
])
def test_infinities_that_no_pool_takes_are_refused(function):
    stage, _ = nets.captured_of(Pooled(function), 2, 6, 6)
    canonicalize(stage.graph)
    with pytest.raises(CaptureError, match="border of infinities"):
        decompose(stage.graph)


@pytest.mark.parametrize(("function", "refused"), [
    (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e4), 3, 2), True),
    (lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-1e4)[:, :, 1:].flip(3), 3, 1), True),
    (lambda x: F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1), value=-1e4), 3, 2), False),  # the pool takes it
    (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-9.0), 3, 2), False),
    (lambda x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e4), 3, 2), False),
])
def test_a_number_that_stands_for_infinity_is_refused(function, refused):
    stage, _ = nets.captured_of(Pooled(function), 2, 6, 6)
    canonicalize(stage.graph)
    if not refused:
        decompose(stage.graph)
        return
    with pytest.raises(CaptureError, match="border of -10000 before a max pool"):
        decompose(stage.graph)


@pytest.mark.parametrize(("settings", "between"), [
    ({}, ["mul_constant"]), ({"scale": 0.3}, ["mul_constant"]),
    ({"is_causal": True}, ["mul_constant", "add_parameter"]),
    ({"attn_mask": torch.eye(6).bool()}, ["mul_constant", "add_parameter"]),
    ({"attn_mask": torch.arange(36.0).reshape(6, 6)}, ["mul_constant", "add_parameter"]),
])
def test_attention_is_two_products_around_a_softmax(settings, between):
    stage, x = nets.captured_of(Pooled(lambda x: F.scaled_dot_product_attention(x, x + 1, x * 2, **settings)), 4, 6, 5)
    graph = stage.graph
    canonicalize(graph)
    before = nets.run(graph, x)
    decompose(graph)
    names = nets.operators(graph)
    assert names[names.index("permute"):] == ["permute", "matmul", *between, "softmax", "matmul"]
    torch.testing.assert_close(nets.run(graph, x), before, rtol=1e-5, atol=1e-5)
    assert not decompose(graph)
