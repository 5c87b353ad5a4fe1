"""Freezing: codes and phases final; what comes out computes the integers that one computes by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.passes.freeze import freeze
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.nodes import bias_quantizer_of, bound_args, is_constant, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.stages import Reference
from tests.examples import nets, tiny

TARGET = TARGETS["vnni"]


def calibrated(model=None, images=None, recipe="qdrop_w4a4", target=TARGET):
    quantized, x = tiny.quantized_net(target, recipe, model, images)
    return tiny.calibrate_by_range(quantized, x).graph, x


def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()


@pytest.mark.parametrize("target", [TARGET, PAPER], ids=lambda t: t.name)
def test_phases_and_codes_are_final(target):
    graph, _ = calibrated(target=target)
    freeze(graph)
    for node in graph.graph.nodes:
        quantizer = quantizer_of(graph, node)
        if quantizer is not None:
            assert quantizer.phase is Phase.FROZEN
            assert (quantizer.codes is not None) == is_constant(node)
        if quantizer is not None and is_constant(node):
            grid = quantizer.spec.grid
            assert quantizer.codes.dtype == torch.int32
            assert grid.qmin <= int(quantizer.codes.min()) and int(quantizer.codes.max()) <= grid.qmax
        bias = bias_quantizer_of(graph, node)
        if bias is not None:
            assert (bias.phase, bias.codes.dtype) == (Phase.FROZEN, torch.int32)
            values = graph.get_parameter(str(node.args[0].target))
            assert torch.equal(bias.codes, torch.round(values.double() / bias.scale.double()).int())


def test_evaluation_in_float64_is_integer_arithmetic_by_hand():
    graph, x = calibrated(small(), torch.randn(4, 3, 7, 7))
    freeze(graph)
    codes = {}
    module = quantizers(graph)
    image, hidden, last = module["input_1_q"], module["relu_q"], module["conv2d_1_q"]
    conv, head = (bound_args(nets.find(graph, "conv2d", index)) for index in (0, 1))
    x = x.double()

    def integers(value, source, args, **options):
        """int64 accumulator and the scale of its unit."""
        weight, bias = quantizer_of(graph, args["weight"]), bias_quantizer_of(graph, args["bias"])
        moved = weight.codes.double() - weight.zero_point.reshape(-1, 1, 1, 1)
        total = F.conv2d(value - int(source.zero_point), moved, bias.codes.double(), **options)
        assert torch.equal(total, total.round())
        return total, (source.scale * weight.scale).double().reshape(-1, 1, 1)

    codes[0] = torch.clamp(torch.round(x / image.scale.double()) + int(image.zero_point), 0, 255)
    total, unit = integers(codes[0], image, conv, stride=2, padding=1)
    codes[1] = torch.clamp(torch.round(total.clamp(min=0) * unit / hidden.scale.double()), 0, hidden.spec.grid.qmax)
    total, unit = integers(codes[1], hidden, head)
    codes[2] = torch.clamp(torch.round(total * unit / last.scale.double()) + int(last.zero_point), 0, 255)
    expected = (codes[2] - int(last.zero_point)) * last.scale.double()
    actual = Reference(graph, None).evaluate(x)
    assert torch.equal(torch.round(actual / last.scale.double()), codes[2] - int(last.zero_point))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_second_run_changes_nothing():
    graph, x = calibrated()
    freeze(graph)
    before, state = nets.run(graph, x), {k: v.clone() for k, v in graph.state_dict().items()}
    freeze(graph)
    assert torch.equal(nets.run(graph, x), before)
    assert all(torch.equal(state[key], value) for key, value in graph.state_dict().items())


def test_weight_codes_that_calibration_decided_stay():
    graph, _ = calibrated()
    node = bound_args(nets.find(graph, "conv2d", 1))["weight"]
    weight = quantizer_of(graph, node)
    decided = torch.zeros_like(weight.quantize(graph.get_parameter(str(node.args[0].target))))
    weight.harden(decided)
    freeze(graph)
    assert torch.equal(weight.codes, decided.int())


def test_learned_scales_are_detached_float32():
    graph, _ = calibrated()
    quantizer = next(iter(quantizers(graph).values()))
    quantizer.scale = quantizer.scale.double().requires_grad_()
    freeze(graph)
    assert (quantizer.scale.dtype, quantizer.scale.requires_grad) == (torch.float32, False)


def first_weight(graph):
    return next(quantizer_of(graph, n) for n in graph.graph.nodes if n.name.endswith("_w"))


def no_numbers(graph):
    first_weight(graph).scale = None


def soft_rounding(graph):
    first_weight(graph).attach(lambda w: w)


def wide_bias(graph):
    weight = first_weight(graph)
    weight.set_params(QParams(weight.scale * 1e-12, weight.zero_point))
    graph.get_parameter("stem.bias").fill_(1e3)


@pytest.mark.parametrize(
    ("spoil", "words"), [(no_numbers, "never calibrated"), (soft_rounding, "not detached"), (wide_bias, "int32")]
)
def test_unfinished_graphs_are_refused_with_their_place(spoil, words):
    graph, _ = calibrated()
    spoil(graph)
    with pytest.raises(CalibrationError, match=words) as error:
        freeze(graph)
    assert error.value.where.startswith("node conv2d")


def filled():
    quantized, x = tiny.quantized_net(TARGET, tiny.multibit_recipe())
    return tiny.fill_levels(quantized, x).graph


def test_levels_and_their_bits_are_frozen():
    graph = filled()
    freeze(graph)
    weight, activation = quantizers(graph)["conv2d_1_w"], quantizers(graph)["relu_q"]
    assert [len(row.unique()) <= 1 << bits for row, bits in zip(weight.codes, weight.channel_bits, strict=True)]
    assert not weight.codes[weight.channel_bits == 0].any() and bool((weight.scale > 0).all())
    assert activation.multiples is not None


@pytest.mark.parametrize("name", ["conv2d_1_w", "relu_q"])
def test_levels_without_bits_are_refused(name):
    graph = filled()
    quantizers(graph)[name].channel_bits = None
    with pytest.raises(CalibrationError, match="no bits for 8 channels"):
        freeze(graph)
    quantizers(graph)[name].channel_bits = torch.ones(7, dtype=torch.int32)
    with pytest.raises(CalibrationError, match="7 bits for 8 channels"):
        freeze(graph)


@pytest.mark.parametrize("bits", [0, 2])
def test_a_channel_with_more_values_than_its_bits_is_refused(bits):
    graph = filled()
    weight = quantizers(graph)["conv2d_1_w"]
    channel = weight.channel_bits.tolist().index(bits)
    weight.codes[channel] = 5
    if bits:
        weight.codes[channel].view(-1)[:5] = torch.arange(5, dtype=torch.int32)
    with pytest.raises(CalibrationError, match=f"channel {channel} has {bits} bits"):
        freeze(graph)
