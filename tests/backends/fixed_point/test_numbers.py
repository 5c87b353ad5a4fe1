"""Windows, divisors and tables, each against what torch or plain arithmetic says."""

import numpy as np
import pytest
import torch
from torch import nn

from backends.fixed_point.numbers import (
    function_table,
    hardsigmoid,
    pool_divisors,
    requantize_table,
    sigmoid,
    window_of,
)
from backends.integer import CodeGrid
from passes import prepare
from pipeline.capture import capture
from pipeline.graph import op_name


def node_of(module, operator, size=9):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)

    graph = prepare(capture(Net().eval(), torch.zeros(1, 4, size, size)).graph)
    return next(node for node in graph.graph.nodes if op_name(node) == operator)


def grid(scale, zero_point=0, low=0, high=255):
    return CodeGrid(torch.tensor(scale), zero_point, low, high)


def test_windows_read_what_the_output_needs():
    conv = node_of(nn.Conv2d(4, 4, 3, stride=2, padding=1, dilation=2), "conv2d")
    assert window_of(conv) == ((3, 3), (2, 2), (1, 1, 1, 1), (2, 2))
    pool = node_of(nn.MaxPool2d(2, ceil_mode=True), "max_pool2d")
    assert window_of(pool) == ((2, 2), (2, 2), (0, 0, 1, 1), (1, 1))
    uneven = node_of(nn.Conv2d(4, 4, 3, stride=2, padding=1), "conv2d", size=8)
    assert window_of(uneven) == ((3, 3), (2, 2), (1, 1, 0, 0), (1, 1))


@pytest.mark.parametrize("include", [True, False])
def test_divisors_count_what_torch_counts(include):
    pool = nn.AvgPool2d(3, 2, 1, count_include_pad=include)
    ones = torch.ones(1, 1, 9, 9)
    sums = nn.functional.conv2d(ones, torch.ones(1, 1, 3, 3), stride=2, padding=1)
    assert np.allclose((sums / pool(ones))[0, 0].numpy(), pool_divisors(node_of(pool, "avg_pool2d")))


def test_functions():
    codes = torch.arange(256) - 100
    for name, function, wanted in (("s", sigmoid, torch.sigmoid), ("h", hardsigmoid, nn.functional.hardsigmoid)):
        table = function_table(function, grid(0.05, 100), grid(1 / 255))
        exact = wanted(codes.double() * float(torch.tensor(0.05))) / float(torch.tensor(1 / 255))
        assert np.abs(table - exact.numpy()).max() <= 0.5 + 1e-6, name
    assert sigmoid(-800.0) == 0.0 and sigmoid(800.0) == 1.0


def test_tables_between_grids():
    node = node_of(nn.MaxPool2d(2), "max_pool2d")
    assert requantize_table(node, grid(0.1, 3), grid(0.1, 3)) is None
    assert requantize_table(node, grid(0.1, 3), grid(0.1, 3, low=5)) is not None
    table = requantize_table(node, grid(0.1, 3), grid(0.2, 7))
    assert table[3] == 7 and table[5] == 8 and table[4] == 8 and table[255] == 133
