"""A target is data: frozen, with a float rule and its reason for whatever it does not list."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.target import Note, OpRule, Target, WeightLimits

TARGET = Target("toy", "small", {"conv2d": OpRule("quantized", "own", absorbs=("relu",))})


def test_a_listed_operator_has_its_rule():
    assert TARGET.rule("conv2d") is TARGET.ops["conv2d"]


def test_what_is_not_listed_runs_in_float_with_a_reason():
    rule = TARGET.rule("gelu")
    assert (rule.inputs, rule.output, rule.reason) == ("float", "none", "toy has no integer kernel for gelu")


def test_defaults_are_the_least_restrictive_and_frozen():
    assert (TARGET.weights, TARGET.placements, TARGET.input_bits) == (WeightLimits(), ("target",), 8)
    assert WeightLimits().zero_points and WeightLimits().wide_limit is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGET.name = "other"


def test_notes_concern_some_recipes_and_speak_of_their_bits():
    target = dataclasses.replace(TARGET, notes=(Note("for all"), Note("W{weights}A{activations}", activations_below=8)))
    assert target.notes_for(4, 4) == ["for all", "W4A4"]
    assert target.notes_for(4, 8) == ["for all"]
