"""Cost is counted by hand on a small network, and follows the numbers that it should follow."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.cost import Cost, facts_of, network_cost
from isobit.calib.synthesis.generator import Generator, image_cost
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import bound_args, get_attribute, is_constant, op_name, quantizer_of, tensor_shape
from tests.examples.units import net, recipe


def test_costs_add_and_multiplies() -> None:
    assert Cost(1.0, 2.0) + Cost(3.0, 4.0) * 2 == Cost(7.0, 10.0)


def test_a_network_is_its_weights_times_the_places_where_they_act() -> None:
    quantized, _ = net(recipe("qdrop_w4a4"), name="residual")
    graph, macs, values = quantized.graph, 0, 0
    for node in graph.graph.nodes:
        if op_name(node) in ("conv2d", "linear"):
            weight = bound_args(node)["weight"]
            while not is_constant(weight) or quantizer_of(graph, weight) is not None:
                weight = weight.args[0]
            places = torch.Size(tensor_shape(node)[2:]).numel()
            macs += get_attribute(graph, weight).numel() * places
            values += tensor_shape(node)[1] * places
    assert network_cost(Layers(quantized.calls)) == Cost(macs, values) and macs > 0


def test_units_share_the_network_and_the_last_has_nothing_after_it() -> None:
    quantized, _ = net(recipe("qdrop_w4a4"), name="residual")
    facts = facts_of(quantized, 40)
    assert facts.after[-1] == Cost() and facts.after[0].macs < facts.network.macs
    assert list(facts.after) == sorted(facts.after, key=lambda cost: -cost.macs)
    assert (facts.images, facts.batch, facts.shape) == (40, quantized.recipe.images.batch_size, (3, 12, 12))
    assert facts.searched(1000) == facts.searched() and facts.searched(10).macs == 10 * facts.network.macs


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 8, 8), (1, 16, 12)])
def test_a_generated_image_is_counted_as_the_generator_computes_it(shape: tuple[int, int, int]) -> None:
    generator, counted = Generator(shape, 10, "embedding"), []

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        each = module.weight.numel() // module.weight.shape[0]
        counted.append(Cost(each * output[0].numel(), output[0].numel()))

    for module in generator.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        generator(torch.randn(2, 100), torch.tensor([0, 1]))
    assert sum(counted, Cost()) == image_cost(shape)
