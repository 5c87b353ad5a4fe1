"""A target is data: frozen, with a float rule and its reason for whatever it does not list."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import fx

from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.target import Note, OpRule, Target, WeightLimits

aten = torch.ops.aten
TARGET = Target("toy", "small", {"conv2d": OpRule("quantized", "own", absorbs=("relu",))})


def test_a_listed_operator_has_its_rule():
    assert TARGET.rule("conv2d") is TARGET.ops["conv2d"]


def test_what_is_not_listed_runs_in_float_with_a_reason():
    rule = TARGET.rule("gelu")
    assert (rule.inputs, rule.output, rule.reason) == ("float", "none", "toy has no integer kernel for gelu")


def test_tables_are_for_operators_of_one_tensor_that_no_rule_names():
    own = OpRule("accumulator", "none")
    target = dataclasses.replace(TARGET, ops={**TARGET.ops, "tanh": own}, tables=OpRule("quantized", "own"))
    assert (target.rule("gelu"), target.rule("tanh")) == (target.tables, own)
    assert (target.rule("sigmoid").output, target.rule("sigmoid").fixed) == ("fixed", (1 / 255, 0))
    assert target.rule("softmax").inputs == "float"


def test_what_runs_with_an_operator_is_absorbed_or_in_one_table_with_it():
    graph = fx.Graph()
    x = graph.placeholder("x")
    conv = graph.call_function(aten.conv2d.default, (x, x))
    relu = graph.call_function(aten.relu.default, (conv,))
    gate = graph.call_function(aten.sigmoid.default, (relu,))
    product = graph.call_function(aten.mul.Tensor, (gate, relu))
    graph.output(product)
    rules = {"conv2d_dynamic": TARGET.rule("conv2d")}  # its weight is computed here
    target = dataclasses.replace(TARGET, ops=rules, tables=OpRule("quantized", "own"))
    calls = Calls(fx.GraphModule({}, graph))
    conv, relu, gate, product = (calls[node] for node in (conv, relu, gate, product))
    assert (target.runs_with(conv), target.runs_with(gate)) == ((relu,), (product,))
    assert (target.runs_with(relu), TARGET.runs_with(gate)) == ((gate, product), ())


def test_what_is_absorbed_ends_at_another_operator_and_at_a_second_reader():
    graph = fx.Graph()
    x = graph.placeholder("x")
    layer = graph.call_function(aten.neg.default, (x,))
    first = graph.call_function(aten.relu.default, (layer,))
    second = graph.call_function(aten.hardtanh.default, (first, 0.0, 6.0))
    graph.output(graph.call_function(aten.add.Tensor, (second, second)))

    def found(*names):
        target = dataclasses.replace(TARGET, ops={"neg": OpRule("quantized", "own", absorbs=names)})
        return [call.node for call in target.runs_with(Calls(fx.GraphModule({}, graph))[layer])]

    assert found("relu", "hardtanh") == [first, second] and found("relu") == [first]
    graph.call_function(aten.neg.default, (first,))
    assert found("relu", "hardtanh") == [first]


def test_defaults_are_the_least_restrictive_and_frozen():
    assert (TARGET.weights, TARGET.placements, TARGET.input_bits) == (WeightLimits(), ("target",), 8)
    assert WeightLimits().zero_points and WeightLimits().wide_limit is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGET.name = "other"


def test_notes_concern_some_recipes_and_speak_of_their_bits():
    target = dataclasses.replace(TARGET, notes=(Note("for all"), Note("W{weights}A{activations}", activations_below=8)))
    assert target.notes_for(4, 4) == ["for all", "W4A4"]
    assert target.notes_for(4, 8) == ["for all"]


def test_notes_of_wide_codes_concern_no_recipe_that_narrows_either_or_shares_bits():
    target = dataclasses.replace(TARGET, notes=(Note("wide", both_from=8),))
    assert target.notes_for("8", 8) == ["wide"]
    assert not any(target.notes_for(*bits) for bits in ((7, 8), (8, 7), ("mp6", 8), ("4", 4)))


def test_what_a_weight_takes_is_asked_of_the_kind_of_layer():
    own = WeightLimits(depthwise_bits=16)
    assert [own.stored_bits(bits) for bits in (2, 4, 5, 8)] == [2, 4, 8, 8]
    assert [own.stored_bits(bits, depthwise=True) for bits in (2, 8)] == [16, 16]
    assert WeightLimits().stored_bits(3, depthwise=True) == 3
