"""Projection touches only what does not fit: channels whose bias leaves int32, weights that leave int8."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.passes import project_grids
from isobit.passes.project_grids import BIAS_LIMIT
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import bias_quantizer_of, bound_args, get_attribute, quantizer_of
from isobit.pipeline.quant.grid import SCALE_FLOOR, Grid, QParams, QuantSpec
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets, tiny

TARGET = TARGETS["vnni"]


def layer_with(change, granularity="per_channel", settings=()):
    """The calibrated graph of one convolution whose float numbers `change` edited, and its quantizers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        change(model[0])
    recipe = load_recipe("minmax_w8a8", [f"weights.granularity={granularity}", *settings])
    quantized, x = tiny.quantized_net(TARGET, recipe, model, torch.randn(4, 3, 6, 6))
    graph = tiny.calibrate_by_range(quantized, x).graph
    args = bound_args(nets.find(graph, "conv2d"))
    return graph, quantizer_of(graph, args["weight"]), bias_quantizer_of(graph, args["bias"])


def zero_channel(conv):
    conv.weight[1], conv.bias[1] = 0, 0.7


def tiny_channel(conv):
    conv.weight[1] *= 1e-7
    conv.bias[1] = 3


def values(graph):
    return graph.get_parameter("0.weight"), graph.get_parameter("0.bias")


def test_what_fits_is_left_alone():
    graph, weight, _ = layer_with(lambda conv: None)
    before = copy.deepcopy(weight.state_dict())
    assert project_grids(graph, TARGET) == []
    assert weight.codes is None
    assert all(torch.equal(before[key], weight.state_dict()[key]) for key in before)


def test_a_zero_channel_gets_a_scale_that_holds_its_bias_and_moves_no_code():
    graph, weight, bias = layer_with(zero_channel)
    scales = weight.scale.clone()
    (line,) = project_grids(graph, TARGET)
    assert line == "0: 1 channel scale(s) raised to fit an int32 bias, 0 weight code(s) moved"
    codes = bias.quantize(values(graph)[1])
    assert int(codes.abs().max()) <= BIAS_LIMIT
    assert float(codes[1] * bias.scale[1]) == pytest.approx(0.7, rel=1e-6)
    kept = [0, 2, 3]
    assert torch.equal(weight.scale[kept], scales[kept]) and weight.scale[1] > scales[1]
    assert project_grids(graph, TARGET) == []


def test_a_tiny_channel_loses_codes_and_says_so():
    graph, _, _ = layer_with(tiny_channel)
    (line,) = project_grids(graph, TARGET)
    assert "1 channel scale(s)" in line and " 0 weight code(s)" not in line


def test_learned_codes_of_other_channels_stay():
    graph, weight, _ = layer_with(zero_channel)
    learned = weight.quantize(values(graph)[0])
    learned[0, 0] += 1 - 2 * (learned[0, 0] > 0)  # not what nearest rounding gives
    weight.harden(learned)
    (line,) = project_grids(graph, TARGET)
    assert torch.equal(weight.codes, learned.int())
    assert line.endswith("0 weight code(s) moved")


def test_one_scale_for_the_whole_weight_is_raised_for_all():
    def all_tiny(conv):
        conv.weight.mul_(1e-7)
        conv.bias[1] = 3

    graph, weight, bias = layer_with(all_tiny, "per_tensor")
    (line,) = project_grids(graph, TARGET)
    assert weight.scale.dim() == 0 and "4 channel scale(s)" in line
    assert int(bias.quantize(values(graph)[1]).abs().max()) <= BIAS_LIMIT


def test_a_bias_beyond_int64_is_seen():
    graph, _, bias = layer_with(zero_channel)
    bias.parents[0].set_params(QParams(torch.tensor(1e-8), torch.tensor(0, dtype=torch.int32)))
    values(graph)[1][1] = 1e4
    assert len(project_grids(graph, TARGET)) == 1
    assert 0 < int(bias.quantize(values(graph)[1])[1]) <= BIAS_LIMIT


def asymmetric(bits):
    graph, weight, _ = layer_with(lambda conv: None)
    weight.spec = QuantSpec(Grid(bits, signed=False), symmetric=False, axis=0)
    points = torch.tensor([0, 1, 2**bits - 1, 5], dtype=torch.int32)
    weight.set_params(QParams(torch.full((4,), 0.1), points))
    return graph


def test_asymmetric_weights_of_7_bits_fit_and_of_8_do_not():
    assert project_grids(asymmetric(7), TARGET) == []
    assert project_grids(asymmetric(8), PAPER) == []
    with pytest.raises(TargetError, match="-255..255 do not fit int8") as error:
        project_grids(asymmetric(8), TARGET)
    assert "node conv2d (0" in error.value.where


def test_a_codebook_that_cannot_hold_its_bias_stays_a_codebook():
    quantized, x = tiny.quantized_net(TARGET, tiny.multibit_recipe())
    graph = tiny.fill_levels(quantized, x).graph
    args = bound_args(nets.find(graph, "conv2d", 1))
    weight, bias = quantizer_of(graph, args["weight"]), get_attribute(graph, args["bias"].args[0])
    assert weight.channel_bits.tolist()[:5] != [0] * 5
    before, scale = weight.codes.clone(), weight.scale.clone()
    pruned = weight.channel_bits.tolist().index(0)
    rich = weight.channel_bits.tolist().index(4)
    steps = BIAS_LIMIT * quantizer_of(graph, bound_args(nets.find(graph, "conv2d", 1))["input"]).scale * scale
    with torch.no_grad():
        bias[pruned], bias[rich] = 50 * steps[pruned], 4 * steps[rich]
    assert "2 channel scale(s) raised" in project_grids(graph, TARGET)[0]
    assert not weight.codes[pruned].any()
    assert torch.equal(weight.codes[rich], torch.round(before[rich] * (scale[rich] / weight.scale[rich])).int())
    assert len(weight.codes[rich].unique()) <= 16
    others = [channel for channel in range(len(before)) if channel not in (pruned, rich)]
    assert torch.equal(weight.codes[others], before[others])


def units(input_unit, weight_unit, channel=1.0):
    def change(conv):
        conv.weight.mul_(weight_unit)
        conv.weight[1] *= channel
        conv.bias.mul_(weight_unit)

    graph, weight, bias = layer_with(change)
    source = bias.parents[0]
    source.set_params(QParams(source.scale * input_unit, source.zero_point))
    return graph, weight, source


def test_a_small_channel_whose_product_of_scales_is_no_normal_float_gets_a_larger_scale():
    graph, weight, source = units(1e-30, 1.0, channel=1e-6)
    weight.set_params(QParams(weight.scale * torch.tensor([1, 1e-6, 1, 1]), weight.zero_point))
    assert float(source.scale * weight.scale[1]) < SCALE_FLOOR
    line = next(line for line in project_grids(graph, TARGET) if "normal" in line)
    assert line.startswith("0: 1 channel scale(s) raised to stay a normal float32")
    assert bool((source.scale * weight.scale >= SCALE_FLOOR).all())


@pytest.mark.parametrize(("input_unit", "weight_unit"), [(1e-33, 1e-10), (1e30, 1e15)])
def test_a_whole_layer_whose_scales_have_no_product_is_refused(input_unit, weight_unit):
    graph, _, _ = units(input_unit, weight_unit)
    with pytest.raises(TargetError, match="is no normal float32") as error:
        project_grids(graph, TARGET)
    assert "node conv2d (0" in error.value.where


def test_a_tiny_part_of_a_concatenation_is_no_fault_where_biases_stay_in_float():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.dim, self.loud, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)
            with torch.no_grad():
                self.dim.weight.mul_(1e-30), self.dim.bias.zero_()

        def forward(self, x):
            return self.head(torch.cat([torch.relu(self.dim(x)), torch.relu(self.loud(x))], 1))

    torch.manual_seed(0)
    quantized, x = tiny.quantized_net(PAPER, load_recipe("minmax_w8a8"), Parts().eval(), 1e-8 * torch.randn(4, 3, 6, 6))
    assert project_grids(tiny.calibrate_by_range(quantized, x).graph, PAPER) == []
