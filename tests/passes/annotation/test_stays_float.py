"""What stays in float beside operators without kernels: what a logarithm reads, and arithmetic between float ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from isobit.backends.fixed_point.rules import integer_target
from isobit.passes.annotation.stays_float import BEFORE_LOGARITHM, BETWEEN
from isobit.pipeline.graph.annotation import annotation_of, kept_float
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.recipe.schema import Override
from tests.passes.plans import plan


def kept(function, **options):
    """(operator, reason) of all that was left in float."""
    graph = plan(function, overrides=options.pop("overrides", []), **options)
    return [(op_name(node), kept_float(node)) for node in graph.graph.nodes if kept_float(node)]


def spectrum(m, x):
    """Energies of two filters in decibels, and a layer that reads them."""
    power = m.a(x).square() + m.b(x).square()
    return m.c(torch.log(power.sqrt().clamp(min=1e-6)))


def test_a_filter_bank_is_float_up_to_its_logarithm_and_the_layer_after_it_is_not():
    found = kept(spectrum)
    assert [name for name, _ in found if name == "conv2d"] == ["conv2d", "conv2d"]
    assert {reason for _, reason in found} <= {BEFORE_LOGARITHM, BETWEEN}
    graph = plan(spectrum, overrides=[])
    layers = [node for node in graph.graph.nodes if op_name(node) == "conv2d"]
    assert [annotation_of(layer) is None for layer in layers[:2]] == [True, True]
    assert annotation_of(layers[2]).weight is not None
    # Nothing between the input and the logarithm is rounded; the last layer reads codes of the decibels.
    grids = [node for node in graph.graph.nodes if (annotation := annotation_of(node)) and annotation.output]
    assert [op_name(node) for node in grids] == ["log", "conv2d"]


def test_the_layers_that_a_filter_bank_filters_are_float_as_well():
    def twice(m, x, between=lambda x: x):
        signal = F.pad(between(m.b(x)), (1, 1, 1, 1), mode="reflect")
        return m.c(torch.log(m.a(signal).square() + 1e-6))

    # The number that is added is a layer of its own by now.
    assert [name for name, _ in kept(twice) if name == "conv2d"] == ["conv2d"] * 3
    # A sum of two tensors ends it: the second of three filters reads one.
    assert [name for name, _ in kept(lambda m, x: twice(m, x + m.b(x), lambda x: x))].count("conv2d") == 3
    # After an activation it is no filter of the signal any more.
    assert [name for name, _ in kept(lambda m, x: twice(m, x, F.relu)) if name == "conv2d"] == ["conv2d"] * 2


@pytest.mark.parametrize("average", [
    lambda x: x.mean(3), lambda x: x.mean((2, 3), keepdim=True), lambda x: F.avg_pool2d(x, 2),
])
def test_averages_before_a_logarithm_are_float_with_the_layer_that_they_read(average):
    found = kept(lambda m, x: m.fc(torch.log(average(m.a(x).square()) + 1e-6).flatten(2).mean(2)))
    assert ("conv2d", BEFORE_LOGARITHM) in found


def test_no_logarithm_leaves_a_network_without_a_layer_in_integers():
    def ends_in_logarithm(m, x):
        return torch.log(F.relu(m.a(x)) + 1e-2)

    assert "conv2d" not in [name for name, _ in kept(ends_in_logarithm)]
    assert ("conv2d", BEFORE_LOGARITHM) in kept(lambda m, x: ends_in_logarithm(m, m.b(x)))
    # The recipe leaves the only other layer in float.
    assert ("conv2d", BEFORE_LOGARITHM) not in kept(
        lambda m, x: ends_in_logarithm(m, m.b(x)), overrides=[Override(where="b", float=True)])


def test_a_logarithm_of_probabilities_leaves_the_layer_before_the_softmax_in_integers():
    found = kept(lambda m, x: torch.log(torch.softmax(m.a(x), 1)))
    assert "conv2d" not in [name for name, _ in found]


def test_the_recipe_decides_first():
    override = Override(where="a", float=False)
    found = kept(spectrum, overrides=[override])
    assert [name for name, _ in found if name == "conv2d"] == ["conv2d"]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda m, x: m.b(torch.cumsum(torch.cumsum(m.a(x), 1) * torch.tanh(x), 1)), ["mul"]),
        # A group; what moves values does not part it.
        (lambda m, x: m.b(torch.cumsum((torch.cumsum(m.a(x), 1).transpose(2, 3) + torch.tanh(x)) * torch.tanh(x), 1)),
         ["add", "mul"]),
        (lambda m, x: torch.cumsum(m.a(x), 1) * torch.tanh(x), ["mul"]),  # the network's output
        (lambda m, x: m.b(torch.cumsum(m.a(x), 1) * torch.tanh(x)), []),  # a layer reads it
        (lambda m, x: torch.cumsum(m.a(x) * torch.tanh(x), 1), []),       # a layer gives it
        (lambda m, x: m.b(F.relu(m.a(x))), []),
    ],
)
def test_arithmetic_is_float_where_all_around_it_is(function, names):
    assert [name for name, reason in kept(function) if reason == BETWEEN] == names


def test_a_target_without_float_operators_is_left_alone():
    assert kept(spectrum, target=integer_target("chip", "generic")) == []
