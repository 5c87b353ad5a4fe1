"""Axes of memory and multipliers of reductions, against what torch takes them for."""

import pytest
import torch
from torch import nn

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point.operators.reductions import (
    followed_axes,
    kept_axes,
    reduced_axes,
    reduction_refusal,
    reduction_rescale,
)
from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture


class Reduced(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def node_of(function, *shape):
    graph = prepare(capture(Reduced(function).eval(), torch.zeros(1, *shape)).graph)
    return next(node for node in reversed(graph.graph.nodes) if node.op == "call_function")


@pytest.mark.parametrize(("function", "shape", "axes", "follows"), [
    (lambda x: x.sum(1), (4, 5, 6), (1,), (-1, 1, 0)),                 # [H, W]: channels are the rows
    (lambda x: x.amax(1, keepdim=True), (4, 5, 6), (1,), (0, 1, -1)),  # [1, H, W]
    (lambda x: x.sum((1, 3)), (4, 5, 6), (1, 3), (-1, -1, 0)),         # [H]
    (lambda x: x.amin(-1), (4, 5, 6), (3,), (-1, 0, 2)),               # [C, H]
    (lambda x: x.amax((1, 2, 3)), (4, 5, 6), (1, 2, 3), (-1, -1, -1)),
    (lambda x: x.mean(1), (7, 6), (1,), (-1, -1, 1)),                  # [W]
])
def test_axes_of_memory(function, shape, axes, follows):
    node = node_of(function, *shape)
    assert reduced_axes(node) == axes and followed_axes(node, False) == follows and reduction_refusal(node) == ""


def test_a_tensor_in_the_graphs_order_has_its_last_axis_for_channels():
    node = node_of(lambda x: x.mean(1), 7, 6)
    assert followed_axes(node, True) == (-1, -1, 2) and kept_axes(node, True) == [2]


def test_a_mean_divides_and_a_sum_does_not():
    x, grid = CodeGrid(torch.tensor(1.0), 0, 0, 255), CodeGrid(torch.tensor(1.0), 0, 0, 255)
    total, mean = (reduction_rescale(node_of(function, 4, 5, 6), x, grid)
                   for function in (lambda x: x.sum(3), lambda x: x.mean(3)))
    values = [rescale.terms[0].multiplier[0] * 2.0 ** (rescale.terms[0].lift - rescale.shift)
              for rescale in (total, mean)]
    assert values[0] == 1.0 and abs(values[1] - 1 / 6) < 1e-8


def test_many_axes_are_refused():
    assert "four at most" in reduction_refusal(node_of(lambda x: x.amax(1), 4, 5, 6, 7))
