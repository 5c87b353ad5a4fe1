"""Sensitivities from a model and samples: ranked rows, what is refused, and that nothing of a recipe's policy holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.analyze import analyze_model, check_bits, open_recipe, place_at
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.errors import CalibrationError, InputError, RecipeError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.samples.inputs import InputShape
from isobit.result import Options
from tests.examples.tiny import model_and_images, multibit_recipe, quantized_net

RECIPE = load_recipe("nearest_w4a8", ["images.batch_size=4"])


def batches(labelled=True, samples=12):
    _, images = model_and_images(samples=samples)
    return array_batches(images, torch.arange(samples) % 5 if labelled else None, 4, "calib", "arrays")


def test_rows_are_ranked_at_the_recipe_s_bits_and_hold_all_that_were_asked_for():
    model, _ = model_and_images()
    found = analyze_model(model, RECIPE, "onnx", batches(), bits=(2, 4), samples=8)
    assert found.bits == (2, 4, 8) and found.samples == 8 and found.shown_bits == (4, 8)
    assert [row.name for row in found.layers] == ["stem", "inner", "outer", "head"]
    worst = [row.effects[4].loss for row in found.worst_layers()]
    assert worst == sorted(worst, reverse=True) and len(worst) == 4
    assert {row.effects[2].weight_bits for row in found.layers} == {2}  # the policy holds no layer at 8
    assert {row.effects[2].input_bits for row in found.layers} == {8}
    tensors = [row.effects[8].loss for row in found.worst_tensors()]
    assert tensors == sorted(tensors, reverse=True) and tensors
    assert found.layers[0].effects[4].drop.title == "top-1 accuracy"


def test_overrides_hold_and_the_method_is_not_run():
    recipe = load_recipe("qdrop_w4a8", ["overrides=[{where: inner, weights: {bits: 5}}]", "images.batch_size=4"])
    opened = open_recipe(recipe, 3)
    assert opened.policy == "none" and opened.method.name == "nearest" and opened.overrides == recipe.overrides
    quantized, _ = quantized_net(TARGETS["vnni"], recipe)
    bits = {width: {tensor.node.name for tensor in _weights(placed, width)} for width, placed in
            place_at(quantized, (2, 6)).items()}
    assert all(len(names) == 3 for names in bits.values())


def _weights(placed, width):
    from isobit.pipeline.graph.quantized_tensors import quantized_tensors

    return [one for one in quantized_tensors(placed.graph).weights() if one.quantizer.spec.grid.bits == width]


def test_equalized_recipes_are_measured_equalized():
    assert open_recipe(load_recipe("mse_w4a8"), 4).method.parameters == {"equalize": True}


@pytest.mark.parametrize(("error", "text", "arguments"), [
    (InputError, "nothing to measure", {"bits": (9,)}),
    (InputError, "means over samples", {"samples": 0}),
    (RecipeError, "bits of its own", {"recipe": multibit_recipe("images.batch_size=4")}),
    (InputError, "a drop of -1", {"options": Options(max_drop=-1.0)}),
    (RecipeError, "no layer of the network is quantized", {"recipe": load_recipe("nearest_w4a8", [
        "overrides=[{where: 'op:conv2d', float: true}, {where: 'op:linear', float: true}]", "images.batch_size=4"])}),
])
def test_refusals(error, text, arguments):
    model, _ = model_and_images()
    given = {"recipe": RECIPE, **arguments}
    with pytest.raises(error, match=text):
        analyze_model(model, given.pop("recipe"), "onnx", batches(), **given)


def test_made_images_serve_and_none_are_refused():
    model, _ = model_and_images()
    shape = InputShape((3, 8, 8), "given")
    distilled = load_recipe("zeroq_w8a8", ["images.count=8", "images.batch=4", "images.iterations=2",
                                           "images.batch_size=4"])
    assert analyze_model(model, distilled, "reference", shape, bits=(8,)).samples == 8
    with pytest.raises(CalibrationError, match="there are none"):
        analyze_model(model, load_recipe("gdfq_w8a8"), "reference", shape, bits=(8,))


def test_a_network_of_one_layer_is_measured():
    layer = nn.Linear(6, 3).eval()
    given = array_batches(torch.randn(12, 6), None, 4, "calib", "arrays")
    found = analyze_model(layer, RECIPE, "onnx", given, bits=(4,))
    assert len(found.layers) == 1 and check_bits((8, 4, 8)) == (4, 8)
