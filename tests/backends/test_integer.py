"""Exact sums, codes through layout operators, and grids narrowed by the activations behind an operator."""

import numpy as np
import pytest
import torch
from torch import nn

from backends.exact import ExactArithmetic
from backends.integer import (
    CodeGrid,
    Codes,
    Execution,
    Layer,
    _explained,
    all_pairs,
    container,
    conv2d_sums,
    explicit_padding,
    linear_sums,
    looked_up,
    output_grid,
    quantize_float,
    stored,
)
from backends.onnx_qdq.arithmetic import KERNELS
from backends.onnx_qdq.target import TARGETS
from pipeline.capture import capture
from pipeline.graph import op_name, quantizer_of, quantizers
from tests.backends.onnx_qdq.cases import frozen
from tests.tiny import frozen_levels, frozen_reference

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


def test_a_table_of_pairs_is_the_function():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, shape, generator=generator).float() for shape in ((2, 3, 5, 5), (2, 3, 1, 1)))
    other = CodeGrid(torch.tensor(0.3), 11, 0, 255)

    def function(left, right):
        return left.centered * 1000 + right.centered * right.grid.scale

    table = all_pairs(function, GRID, other)
    assert torch.equal(looked_up(table, a, b), function(Codes(a, GRID), Codes(b, other)))
    assert torch.equal(looked_up(table, b, a), function(Codes(b, GRID), Codes(a, other)))


def test_stored_codes_are_bytes():
    codes = torch.arange(256)
    for dtype in (torch.float32, torch.float64, torch.int64):
        assert torch.equal(stored(codes.to(dtype)), codes.to(torch.uint8))


@pytest.mark.parametrize(
    ("padding", "expected"),
    [([1], (1, 1, 1, 1)), ([1, 2], (1, 2, 1, 2)), (0, (0, 0, 0, 0)), ("valid", (0, 0, 0, 0)), ("same", (1, 3, 2, 3))],
)
def test_explicit_padding(padding, expected):
    assert explicit_padding(padding, (4, 4), [1, 2]) == expected


@pytest.mark.parametrize(
    ("name", "bounds"), [("relu", (0.0, np.inf)), ("relu6", (0.0, 0.3)), ("hardtanh", (-0.11, 0.17))]
)
def test_activations_behind_an_operator_are_ends_of_its_grid(name, bounds):
    reference, images = frozen(name)
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS)
    absorbed = "relu" if name == "relu" else "hardtanh"
    region = next(r for r in execution.regions if r.absorbed and op_name(r.tail) == absorbed)
    grid = output_grid(reference.graph, region)
    expected = quantize_float(torch.tensor(bounds), container(quantizer_of(reference.graph, region.quantizer)))
    assert [grid.low, grid.high] == expected.tolist()
    codes = execution.run(images)[region.quantizer.name]
    assert (int(codes.min()), int(codes.max())) == (grid.low, grid.high)


def test_clamping_codes_is_clamping_values():
    grid = CodeGrid(torch.tensor(0.0371), 91, 0, 255)
    values = torch.linspace(-6, 9, 20001)
    expected = quantize_float(values.clamp(-0.7, 2.2), grid)
    assert torch.equal(quantize_float(values, grid).clamp(grid.code_of(-0.7), grid.code_of(2.2)), expected)


def test_padding_takes_the_code_of_zero_and_layout_moves_codes_unchanged():
    reference, images = frozen("pad_slice")
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS)
    seen = {}
    kernels = {**KERNELS, "conv2d": lambda run, region, inputs, grid: seen.setdefault(region.anchor.name, inputs[0]) and
               KERNELS["conv2d"](run, region, inputs, grid)}
    execution.kernels = kernels
    results = execution.run(images)
    before = results["conv2d_q"].float()
    entering = seen["conv2d_1"]
    zero_point = entering.grid.zero_point
    expected = F.pad(before[:, :, ::2, 1:], (0, 0, 1, 2, 2, 3), value=float(zero_point))
    assert zero_point > 0 and torch.equal(entering.codes, expected)


def test_results_come_in_execution_order_and_do_not_depend_on_the_batch():
    reference, images = frozen_reference(TARGETS["generic"])
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS)
    whole = execution.run(images)
    assert list(whole) == ["x_q", "relu_q", "relu_1_q", "conv2d_2_q", "relu_2_q", "mean_dim_q", "logits"]
    parts = [execution.run(images[start:start + 5]) for start in (0, 5, 10)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)
        assert value.dtype == (torch.float32 if name == "logits" else torch.uint8)


def test_codes_keep_to_their_bits():
    reference, images = frozen("depthwise", 4, 3)
    codes = Execution(reference.graph, TARGETS["generic"], KERNELS).run(3 * images)["relu_q"]
    assert np.unique(codes.numpy()).tolist() == list(range(8))


def test_observed_codes_keep_a_difference_where_it_arises():
    reference, images = frozen_reference(TARGETS["generic"])
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS)
    expected = execution.run(images)
    observed = {name: codes for name, codes in expected.items() if name != "logits"}
    assert all(torch.equal(value, expected[name]) for name, value in execution.run(images, observed).items())
    observed["relu_q"] = 15 - observed["relu_q"]
    results = execution.run(images, observed)
    assert torch.equal(results["relu_q"], expected["relu_q"])  # its own inputs are as before
    assert not torch.equal(results["relu_1_q"], expected["relu_1_q"])  # it reads the changed codes
    assert torch.equal(results["conv2d_2_q"], expected["conv2d_2_q"])  # it reads relu_1_q as observed


def test_nested_codes_settle_on_the_multiples_of_their_channels():
    grid = CodeGrid(torch.tensor(0.1), 0, 0, 90, torch.tensor([105, 35, 15, 7, 211]).reshape(-1, 1, 1))
    codes = torch.arange(256.0).expand(1, 5, -1)
    settled = grid.settle(codes[..., None].clone())[0, :, :, 0]
    assert [row.unique().tolist() for row in settled[:3]] == [[0, 105], [0, 35, 70, 105], [15.0 * i for i in range(7)]]
    assert settled[3].max() == 91 and not settled[4].any()  # clamped to 90 first, then to the nearest multiple
    assert torch.equal(CodeGrid(torch.tensor(0.1), 0, 3, 90).settle(codes.clone()), codes.clamp(3, 90))


def test_integer_and_exact_evaluation_regrid_alike():
    reference, images = frozen_levels(TARGETS["generic"])
    expected = ExactArithmetic(reference).run(images)
    got = Execution(reference.graph, TARGETS["generic"], KERNELS).run(images)
    quantizer = quantizers(reference.graph)["relu_q"]
    codes = torch.from_numpy(expected["relu_q"])
    assert not bool((codes % quantizer.multiples.reshape(-1, 1, 1)).any())
    assert len(codes.unique()) > 4 and bool((quantizer.channel_bits == 0).any())
    assert all(np.array_equal(expected[name], got[name].numpy()) for name in expected if name != "logits")


def test_float_rounding_is_a_share_of_the_sample_s_values_or_of_the_grid_whichever_is_larger():
    value = torch.tensor([[0.0505, 0.0], [0.055, 250.0], [0.055, 0.0]])  # 0.05 is the middle between codes 37 and 38
    low, high = _explained(value, GRID)
    assert low[:, 0].tolist() == [37, 37, 38] and high[:, 0].tolist() == [38, 38, 38]
    assert low.dtype == high.dtype == torch.uint8 and high[1, 1] == 255
