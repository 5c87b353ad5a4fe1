"""Checks of single values: what they take, and what they refuse by place."""

import pytest

from isobit.pipeline.model.exported_grammar import Unsafe, boolean, integer, name, path


@pytest.mark.parametrize("value", ["x", "p_conv_weight", "_0", "input", "relu_1"])
def test_names(value):
    assert name(value, "f") == value


@pytest.mark.parametrize(
    "value", ["", "x y", "x\n", "0x", "a.b", "for", "self", "torch", "__class__", "é", 3, None, "x" * 301, "x=1"]
)
def test_names_that_are_none(value):
    with pytest.raises(Unsafe) as caught:
        name(value, "the field")
    assert caught.value.field == "the field" and len(caught.value.found) <= 80


@pytest.mark.parametrize("value", ["weight", "layer1.0.conv.weight", "0.weight"])
def test_paths(value):
    assert path(value, "f") == value


@pytest.mark.parametrize("value", ["", "a..b", "a.", "a.__class__", "forward", "a._modules", "training", "a-b", "a\n"])
def test_paths_that_are_none(value):
    with pytest.raises(Unsafe):
        path(value, "f")


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 2**63, -(2**63) - 1])
def test_whole_numbers_have_64_bits(value):
    with pytest.raises(Unsafe):
        integer(value, "f")


def test_switches_are_true_or_false():
    with pytest.raises(Unsafe):
        boolean(1, "f")
