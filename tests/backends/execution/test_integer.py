"""Codes through layout operators, runs of any batch, and what float rounding explains."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.execution.exact import ExactArithmetic
from isobit.backends.execution.integer import Execution, _explained
from isobit.backends.onnx.arithmetic import KERNELS, logits
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.onnx_cases import frozen
from tests.examples.tiny import frozen_levels, frozen_reference

F = nn.functional
GRID = CodeGrid(torch.tensor(0.1), 37, 0, 255)


def test_padding_takes_the_code_of_zero_and_layout_moves_codes_unchanged():
    reference, images = frozen("pad_slice")
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
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
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
    whole = execution.run(images)
    assert list(whole) == ["x_q", "relu_q", "relu_1_q", "conv2d_2_q", "relu_2_q", "mean_dim_q", "logits"]
    parts = [execution.run(images[start:start + 5]) for start in (0, 5, 10)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)
        assert value.dtype == (torch.float32 if name == "logits" else torch.uint8)


def test_codes_keep_to_their_bits():
    reference, images = frozen("depthwise", 4, 3)
    codes = Execution(reference.graph, TARGETS["generic"], KERNELS, logits).run(3 * images)["relu_q"]
    assert np.unique(codes.numpy()).tolist() == list(range(8))


def test_observed_codes_keep_a_difference_where_it_arises():
    reference, images = frozen_reference(TARGETS["generic"])
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
    expected = execution.run(images)
    observed = {name: codes for name, codes in expected.items() if name != "logits"}
    assert all(torch.equal(value, expected[name]) for name, value in execution.run(images, observed).items())
    observed["relu_q"] = 15 - observed["relu_q"]
    results = execution.run(images, observed)
    assert torch.equal(results["relu_q"], expected["relu_q"])  # its own inputs are as before
    assert not torch.equal(results["relu_1_q"], expected["relu_1_q"])  # it reads the changed codes
    assert torch.equal(results["conv2d_2_q"], expected["conv2d_2_q"])  # it reads relu_1_q as observed


def test_integer_and_exact_evaluation_regrid_alike():
    reference, images = frozen_levels(TARGETS["generic"])
    expected = ExactArithmetic(reference).run(images)
    got = Execution(reference.graph, TARGETS["generic"], KERNELS, logits).run(images)
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


def test_an_infinite_value_has_its_own_code_and_explains_no_other():
    value = torch.tensor([[0.0505, torch.inf], [0.055, -torch.inf], [0.055, 0.0]])
    low, high = _explained(value, GRID)
    assert low.tolist() == [[37, 255], [38, 0], [38, 37]] and high.tolist() == [[38, 255], [38, 0], [38, 37]]
    carried = torch.tensor([[torch.nan, torch.nan], [torch.nan, torch.inf], [0.01, 0.0]])
    low, high = _explained(value, GRID, carried)
    assert low.tolist() == [[37, 255], [38, 0], [37, 37]] and high.tolist() == [[38, 255], [38, 0], [38, 37]]


def test_a_margin_explains_its_own_numbers_alone():
    value, carried = torch.tensor([[0.06, 1.0]]), torch.tensor([[0.5, 0.0]])
    wide, narrow = _explained(value, GRID, carried), _explained(value, GRID)
    assert int(wide[1][0, 0]) - int(wide[0][0, 0]) > 2 and torch.equal(wide[0][:, 1], narrow[0][:, 1])


def test_what_float_rounding_explains_of_one_number_a_sample():
    low, high = _explained(torch.tensor([0.0505, 0.055]), GRID)
    assert low.tolist() == [37, 38] and high.tolist() == [38, 38]


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.last = function, nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def executed(function):
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Between(function).eval()
    reference, _ = frozen_reference(TARGETS["generic"], "minmax_w8a8", model, images)
    with torch.no_grad():
        results = Execution(reference.graph, TARGETS["generic"], KERNELS, logits).run(images)
        return results["logits"], model(images)


@pytest.mark.parametrize("function", [
    lambda x: torch.clamp(x, 0.5, -0.5) + x, lambda x: torch.clamp(x, 2.0, 1.0) * x,
    lambda x: torch.clamp(x, torch.tensor(0.5), torch.tensor(-0.5)) + x,
])  # fmt: skip
def test_a_clamp_whose_ends_are_the_wrong_way_round_gives_its_upper_end(function):
    found, expected = executed(function)
    error = (found - expected).square().mean() / expected.square().mean()
    assert float(error) < 1e-3  # 30 dB; as a range between both ends it is 14


@pytest.mark.parametrize("function", [lambda x: x / x, lambda x: x + x / x])
def test_nan_has_no_code_and_the_operator_that_gives_it_is_named(function):
    with pytest.raises(CalibrationError, match="the operator div gives NaN") as refusal:
        executed(function)
    assert "node div (test_integer.py:" in refusal.value.where
