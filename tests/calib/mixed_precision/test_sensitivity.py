"""What one layer and one activation do to the network, against the definition worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.calib.cost import facts_of
from isobit.calib.mixed_precision.allocation import find_choices, sensitivities, weight_specs
from isobit.calib.mixed_precision.sensitivity import effects_cost, measure_effects, quantized_layers
from isobit.calib.reconstruction.losses import prediction_loss
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import get_attribute, nodes_by_name, quantizer_of, source_of
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.proof.measures import Measures
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import ports
from tests.examples.tiny import model_and_images, quantized_net

ONNX = TARGETS["vnni"]


def sure():
    """The tiny network with a prediction sure enough to be moved."""
    model, _ = model_and_images()
    with torch.no_grad():
        model.head.weight.mul_(6)
    return model


@pytest.fixture(scope="module")
def tiny():
    """(calibrated at four bits, at eight, images, effects of four bits with inputs at eight)."""
    few, images = quantized_net(ONNX, load_recipe("nearest_w4a4", ["policy=none"]), sure())
    many, _ = quantized_net(ONNX, load_recipe("nearest_w8a8"), sure())
    at_four, at_eight = calibrate(few, images), calibrate(many, images)
    labels = torch.arange(len(images)) % 5
    return at_four, at_eight, images, measure_effects(at_four, images, labels, Measures(), beside=at_eight)


def decibel(changed, wanted):
    noise = (changed - wanted).double().square().sum()
    return round(10 * math.log10(float(wanted.double().square().sum() / noise)), 2)


def off(calibrated):
    for module in calibrated.graph.modules():
        if hasattr(module, "phase"):
            module.phase = Phase.OFF
    return calibrated.graph


@torch.no_grad()
def test_a_layer_s_numbers_are_those_of_its_definition(tiny):
    at_four, at_eight, images, effects = tiny
    graph = off(at_four)
    calls = Calls(graph)
    layer = next(call for call in quantized_layers(calls) if Layers(calls).name(call) == "inner").node
    source = layer.args[0]
    values = {}

    class Keep(torch.fx.Interpreter):
        def run_node(self, n):
            values[n.name] = super().run_node(n)
            return values[n.name]

    answered = Keep(graph).run(images)
    wanted = values[layer.name]
    weight, bias = get_attribute(graph, source_of(layer.args[1])), values[layer.args[2].name]

    def conv(x, w):
        return torch.nn.functional.conv2d(x, w, bias, padding=1)

    w = quantizer_of(graph, layer.args[1]).fake_quantize(weight)
    x = values[source.name]
    x4, x8 = (quantizer_of(of.graph, nodes_by_name(of.graph)[source.name]).fake_quantize(x)
              for of in (at_four, at_eight))
    found = effects.layers[layer.name]
    assert (found.weight_bits, found.input_bits) == (4, 8)
    assert found.snr_weights == pytest.approx(decibel(conv(x, w), wanted), abs=0.02)
    assert found.snr_activations == pytest.approx(decibel(conv(x4, weight), wanted), abs=0.02)
    assert found.snr == pytest.approx(decibel(conv(x8, w), wanted), abs=0.02)
    quantizer_of(graph, layer.args[1]).phase = Phase.ON
    changed = graph(images)
    quantizer_of(graph, layer.args[1]).phase = Phase.OFF
    assert found.loss_weights == pytest.approx(float(prediction_loss(changed, answered, 1.0)), rel=1e-3)
    assert found.loss != found.loss_weights


@torch.no_grad()
def test_an_activation_s_numbers_are_those_of_its_definition(tiny):
    at_four, _, images, effects = tiny
    graph = off(at_four)
    assert set(effects.tensors) == {one.name for one in quantized_tensors(graph).activations().distinct()}
    for tensor in quantized_tensors(graph).activations().distinct():
        answered = graph(images)
        tensor.quantizer.phase = Phase.ON
        changed = graph(images)
        tensor.quantizer.phase = Phase.OFF
        found = effects.tensors[tensor.name]
        expected = float(prediction_loss(changed, answered, 1.0))
        assert found.loss == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert found.bits == tensor.quantizer.spec.grid.bits


def test_weights_alone_cost_what_the_allocation_of_bits_says(tiny):
    _, _, images, effects = tiny
    quantized, _ = quantized_net(ONNX, load_recipe("nearest_w4a8", [
        "weights.bits={average: 3, options: [2, 4]}", "policy=none"]), sure())
    choices = find_choices(quantized, {
        bits: weight_specs(passes.quantize(quantized.captured, quantized.recipe.at_bits(bits), ONNX))
        for bits in (2, 4)})
    omegas = sensitivities(quantized, choices, images, torch.device("cpu"))
    found = [effects.layers[call.name].loss_weights for call in quantized_layers(quantized.calls)]
    assert found == pytest.approx([known[4] for known in omegas], rel=1e-5)


def test_labels_count_what_a_layer_costs_and_choices_do_without_them(tiny):
    at_four, at_eight, images, effects = tiny
    drops = [effect.drop for effect in effects.layers.values()]
    assert {drop.title for drop in drops} == {"top-1 accuracy"}
    bare = measure_effects(at_four, images, None, Measures(), beside=at_eight)
    assert {effect.drop.title for effect in bare.layers.values()} == {"the same choice as float"}
    assert [one.loss for one in bare.layers.values()] == [one.loss for one in effects.layers.values()]


@pytest.mark.parametrize("name", ["detector", "segmenter", "siamese", "steered", "audio", "tokens", "odd"])
def test_networks_of_other_kinds_are_measured(name):
    placed, inputs = ports.placed(name, "onnx", "nearest_w8a8")
    calibrated = calibrate(placed, inputs)
    effects = measure_effects(calibrated, inputs, None, Measures(), beside=calibrated)
    assert effects.layers and effects.tensors
    assert all(math.isfinite(effect.loss) and effect.loss >= 0 for effect in effects.layers.values())


def test_the_cost_grows_with_samples(tiny):
    at_four, _, _, _ = tiny
    quantized = at_four.quantized
    one, two = (effects_cost(quantized, facts_of(quantized, count)) for count in (8, 16))
    assert 0 < one.macs * 2 == pytest.approx(two.macs)
