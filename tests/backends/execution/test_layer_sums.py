"""Sums of layers on codes are exact, however wide, and rounded once."""

import pytest
import torch
from torch import nn

from isobit.backends.execution.codes import CodeGrid, Codes
from isobit.backends.execution.layer_sums import Layer, conv2d_sums, explicit_padding, linear_sums
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.nodes import op_name

F = nn.functional
GRID = CodeGrid(torch.tensor(0.1), 37, 0, 255)


def conv_node(**options):
    graph = capture(nn.Conv2d(4, 6, 3, bias=False, **options), torch.zeros(1, 4, 8, 8)).graph
    return next(node for node in graph.graph.nodes if op_name(node) == "conv2d")


@pytest.mark.parametrize("largest", [7, 127, 32767])
@pytest.mark.parametrize("options", [{}, {"padding": 1, "stride": 2}, {"dilation": 2, "groups": 2}])
def test_sums_are_exact_beyond_float32(options, largest):
    """Weights of 32,767 make sums above 2^24, which float32 cannot hold."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (2, 4, 8, 8), generator=generator)
    shape = (6, 4 // options.get("groups", 1), 3, 3)
    weight = torch.randint(-largest, largest + 1, shape, generator=generator)
    bias = torch.randint(-(2**30), 2**30, (6,), generator=generator)
    layer = Layer(weight.float(), bias.double(), torch.ones(6))
    got = conv2d_sums(Codes(codes.float(), GRID), layer, conv_node(**options))
    expected = F.conv2d(codes - 37, weight, bias, **options)  # int64
    assert_sums(got, expected)
    if largest == 32767:
        assert got.products.dtype is torch.float64
        assert not torch.equal(F.conv2d((codes - 37).float(), weight.float(), bias.float(), **options),
                               expected.float())


def assert_sums(got, expected):
    assert torch.equal(got.exact(), expected.double()) and torch.equal(got.integers(), expected)
    rounded = got.rounded()  # may take the products' memory: last
    assert rounded.dtype is torch.float32 and torch.equal(rounded, expected.float())


@pytest.mark.parametrize("bias", [None, 3, 2**24 + 1, 2**31 - 1, -(2**31) + 1])
def test_a_bias_that_float32_cannot_hold_is_rounded_with_its_sum(bias):
    """2^24 + 1 plus an odd sum: rounding the bias alone first is off by a step of 2."""
    generator = torch.Generator().manual_seed(1)
    codes, weight = torch.randint(0, 256, (2, 4, 8, 8), generator=generator), torch.ones(6, 4, 3, 3).long()
    biases = None if bias is None else torch.tensor([bias, 1, -bias, 0, bias - 1, 7])
    layer = Layer(weight.float(), None if bias is None else biases.double(), torch.ones(6))
    got = conv2d_sums(Codes(codes.float(), GRID), layer, conv_node())
    expected = F.conv2d(codes - 37, weight, biases)
    assert got.products.dtype is torch.float32
    if bias == 2**24 + 1:
        assert not torch.equal(got.products + biases.float().reshape(1, -1, 1, 1), expected.float())
    assert_sums(got, expected)


@pytest.mark.parametrize(("inputs", "cuts"), [(600, 1), (700, 2), (1300, 3), (9000, None)])
def test_a_sum_too_wide_for_float32_is_cut_into_sums_that_fit(inputs, cuts):
    codes, weight = torch.full((2, inputs), 255), torch.full((3, inputs), 127)
    weight[1], weight[2] = -127, torch.arange(inputs) % 255 - 127
    bias = torch.tensor([2**31 - 1, 5, -77])
    layer = Layer(weight.float(), bias.double(), torch.ones(3))
    grid = CodeGrid(torch.tensor(0.1), 37, 0, 255)
    found = layer.cuts(218, dense=True)
    assert (None if found is None else len(found)) == cuts and (cuts == 1 or layer.cuts(218, dense=False) is None)
    for start, end in found or ():
        assert int((weight[:, start:end].abs().sum(1) * 218).max()) < 2**24
    assert_sums(linear_sums(Codes(codes.float(), grid), layer), F.linear(codes - 37, weight, bias))


def test_linear_sums_are_exact():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (5, 700), generator=generator)
    weight = torch.randint(-32767, 32768, (3, 700), generator=generator)
    got = linear_sums(Codes(codes.float(), GRID), Layer(weight.float(), None, torch.ones(3)))
    assert_sums(got, F.linear(codes - 37, weight))


@pytest.mark.parametrize(
    ("padding", "expected"),
    [([1], (1, 1, 1, 1)), ([1, 2], (1, 2, 1, 2)), (0, (0, 0, 0, 0)), ("valid", (0, 0, 0, 0)), ("same", (1, 3, 2, 3))],
)
def test_explicit_padding(padding, expected):
    assert explicit_padding(padding, (4, 4), [1, 2]) == expected
