"""Windows, divisors and tables, each against what torch or plain arithmetic says."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point.numbers import (
    function_table,
    pool_divisors,
    requantize_table,
    window_of,
    without_largest,
)
from isobit.backends.fixed_point.steps import refusal
from isobit.backends.regions import Region
from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import op_name


class Inverse(nn.Module):
    def forward(self, x):
        return torch.reciprocal(x)


class Negative(nn.Module):
    def forward(self, x):
        return -x


def graph_of(module, size=9):
    return prepare(capture(nn.Sequential(module).eval(), torch.zeros(1, 4, size, size)).graph)


def node_of(module, operator, size=9):
    return next(node for node in graph_of(module, size).graph.nodes if op_name(node) == operator)


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


def region_of(*modules):
    """A graph of operators of one tensor, and the region of all of them."""
    graph = graph_of(nn.Sequential(*modules))
    first, *rest = (node for node in graph.graph.nodes if node.op == "call_function")
    return graph, Region(op_name(first), "", first, (first.args[0],), tuple(rest), None, False, True, "")


@pytest.mark.parametrize("module", [nn.Sigmoid(), nn.Hardsigmoid()])
def test_a_function_is_a_table(module):
    codes = torch.arange(256) - 100
    table = function_table(*region_of(module), grid(0.05, 100), grid(1 / 255))
    exact = module(codes.double() * float(torch.tensor(0.05))) / float(torch.tensor(1 / 255))
    assert table.shape == (256,) and np.abs(table - exact.numpy()).max() <= 0.5 + 1e-6


def test_a_run_of_functions_is_one_table_and_channels_have_their_own():
    slopes = nn.PReLU(4)
    with torch.no_grad():
        slopes.weight.copy_(torch.tensor([0.25, -0.5, 1.0, 2.0]))
    table = function_table(*region_of(slopes, nn.Tanh()), grid(0.02, 100), grid(0.01, 128))
    values = (torch.arange(256) - 100).double() * float(torch.tensor(0.02))
    wanted = torch.tanh(torch.where(values >= 0, values, slopes.weight.double()[:, None] * values))
    assert table.shape == (4, 256)
    assert np.abs(table - (wanted / float(torch.tensor(0.01)) + 128).detach().numpy()).max() <= 0.5 + 1e-6


def test_a_pole_takes_the_last_code_and_what_is_no_number_is_refused():
    table = function_table(*region_of(Inverse()), grid(0.1, 7), grid(0.1, 128))
    assert table[7] == 255 and table[6] == 28 and table[8] == 228
    with pytest.raises(TargetError, match=r"(?s)reciprocal gives no number for some codes.*node reciprocal"):
        function_table(*region_of(Inverse(), Negative(), nn.GELU()), grid(0.1), grid(0.1))


def test_tables_between_grids():
    node = node_of(nn.MaxPool2d(2), "max_pool2d")
    assert requantize_table(node, grid(0.1, 3), grid(0.1, 3)) is None
    assert requantize_table(node, grid(0.1, 3), grid(0.1, 3, low=5)) is not None
    table = requantize_table(node, grid(0.1, 3), grid(0.2, 7))
    assert table[3] == 7 and table[5] == 8 and table[4] == 8 and table[255] == 133


@pytest.mark.parametrize(("pool", "size", "right"), [
    (nn.MaxPool2d(2, 1, 1, 2), 1, False), (nn.MaxPool2d(2, 1, 1, 2), 2, True), (nn.MaxPool2d(3, 2, 1), 1, True),
    (nn.MaxPool2d((1, 2), (1, 1), (0, 1), (1, 2)), 1, False),
])
def test_a_maximum_of_padding_alone_is_refused(pool, size, right):
    """PyTorch gives -inf there, which no code stands for. Found by seed 73070."""
    node = node_of(pool, "max_pool2d", size)
    reason = "max_pool2d with a window in its padding alone, where nothing is the largest" * (not right)
    assert without_largest(node) == refusal(node) == reason
