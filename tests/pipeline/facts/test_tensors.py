"""Signal to noise, flipped codes and histograms of a tiny network, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.pipeline.facts.tensors import BEYOND, BINS, POINTS, spread_values, tensor_facts
from isobit.pipeline.graph.nodes import get_attribute
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.graph.subgraphs import float_network
from isobit.pipeline.recipe.file import load_recipe
from tests.examples.tiny import frozen_levels, quantized_net


@pytest.fixture(scope="module")
def made():
    """(frozen reference, images, facts by name)"""
    quantized, images = quantized_net(TARGETS["vnni"], load_recipe("nearest_w4a4"))
    reference, _ = passes.legalize(calibrate(quantized, images))
    return reference, images, {one.name: one for one in tensor_facts(reference, images)}


def decibel(wanted, given):
    wanted, given = wanted.double(), given.double()
    return 10 * math.log10(float(wanted.square().sum() / (given - wanted).square().sum()))


def test_every_quantized_tensor_is_there_in_execution_order(made):
    reference, _, facts = made
    assert list(facts) == [tensor.name for tensor in quantized_tensors(reference.graph)]
    assert {facts[name].kind for name in ("conv2d_w", "relu_q")} == {"weight", "activation"}


def test_a_weight_s_ratio_is_of_its_values_on_the_grid_and_none_is_flipped_by_rounding_to_nearest(made):
    reference, _, facts = made
    for tensor in quantized_tensors(reference.graph).weights():
        weight = get_attribute(reference.graph, tensor.source).detach()
        assert facts[tensor.name].own == pytest.approx(decibel(weight, tensor.quantizer(weight)), abs=0.01)
        assert facts[tensor.name].network is None and facts[tensor.name].flipped == 0.0


def test_a_code_that_is_not_the_nearest_counts_as_flipped():
    quantized, images = quantized_net(TARGETS["vnni"], load_recipe("nearest_w4a4"))
    reference, _ = passes.legalize(calibrate(quantized, images))
    weight = next(t for t in quantized_tensors(reference.graph).weights() if t.name == "conv2d_1_w")
    codes = weight.quantizer.decided.clone()
    low = codes.flatten()[:3]
    codes.view(-1)[:3] = torch.where(low < weight.quantizer.spec.grid.qmax, low + 1, low - 1)
    weight.quantizer.codes = codes
    found = {one.name: one for one in tensor_facts(reference, images[:1])}
    assert found["conv2d_1_w"].flipped == pytest.approx(3 / codes.numel(), abs=1e-6)


def test_a_scale_that_moved_after_rounding_flips_nothing():
    recipe = load_recipe("nearest_w4a4", ["finish.steps=40", "finish.rate=0.02", "finish.what=[scales, biases]"])
    quantized, images = quantized_net(TARGETS["vnni"], recipe)
    reference, _ = passes.legalize(calibrate(quantized, images))
    weights = list(quantized_tensors(reference.graph).weights())
    moved = [t for t in weights if t.quantizer.rounded_at is not None and
             not torch.equal(t.quantizer.rounded_at, t.quantizer.scale)]
    assert moved
    for tensor in moved:
        weight = get_attribute(reference.graph, tensor.source).detach()
        assert not torch.equal(tensor.quantizer.spec.grid.codes(weight, *tensor.quantizer.aligned(weight)),
                               tensor.quantizer.decided.to(weight)) or len(moved) > 1
    found = {one.name: one for one in tensor_facts(reference, images[:1])}
    assert all(found[tensor.name].flipped == 0.0 for tensor in moved)


def test_an_activation_s_ratios_are_of_its_own_grid_and_of_the_frozen_network(made):
    reference, images, facts = made
    tensors = list(quantized_tensors(reference.graph).activations())
    network = float_network(reference.graph, {tensor.source.name for tensor in tensors})
    with torch.no_grad():
        plain = {"x": images, **dict(zip(network.output_names, network(images), strict=True))}
    kept = {}

    def keep(name):
        return lambda module, inputs, value: kept.update({name: value})

    hooks = [tensor.quantizer.register_forward_hook(keep(tensor.name)) for tensor in tensors]
    reference.evaluate(images, torch.float32)  # hooks are copied with the graph
    for hook in hooks:
        hook.remove()
    for tensor in tensors:
        wanted = plain[tensor.source.name]
        with torch.no_grad():
            alone = tensor.quantizer.fake_quantize(wanted)
        assert facts[tensor.name].own == pytest.approx(decibel(wanted, alone), abs=0.01)
        assert facts[tensor.name].network == pytest.approx(decibel(wanted, kept[tensor.name]), abs=0.01)
        assert facts[tensor.name].most == pytest.approx(float(wanted.max()), rel=1e-5)


def test_histograms_reach_a_little_beyond_their_grids(made):
    _, _, facts = made
    for one in facts.values():
        levels = one.qmax - one.qmin + 1
        assert one.histogram.low == pytest.approx(one.qmin - 0.5 - levels * BEYOND / BINS)
        assert len(one.histogram.heights) == BINS + 2 * BEYOND and max(one.histogram.heights) == 1000
    unsigned = facts["relu_q"]
    assert unsigned.histogram.heights.index(1000) in (BEYOND, BEYOND + 1, BEYOND + 2)  # a ReLU's zeros
    assert 0 <= unsigned.clipped < 0.1


def test_the_same_samples_give_the_same_facts(made):
    reference, images, facts = made
    assert {one.name: one for one in tensor_facts(reference, images)} == facts


def test_of_a_large_tensor_values_from_all_over_are_taken():
    taken = spread_values(torch.arange(4.0 * POINTS).reshape(1, 64, -1, 64))
    assert POINTS / 2 < len(taken) <= POINTS and len({int(value) % 64 for value in taken[:512]}) == 64


def test_channels_that_chose_codes_of_their_own_have_no_nearest_one():
    reference, images = frozen_levels(TARGETS["vnni"])
    found = [one for one in tensor_facts(reference, images[:1]) if one.kind == "weight"]
    assert None in [one.flipped for one in found] and all(one.own is not None for one in found)
