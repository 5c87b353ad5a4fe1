"""The grammar of an exported program's description; whole files are tested in test_exported_file.py."""

import re

import pytest

from pipeline.exported_schema import Unsafe, boolean, checked_payloads, checked_program, integer, name, path


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


def test_the_missing_field_is_named():
    with pytest.raises(Unsafe) as caught:
        checked_program({"graph_module": {}, "opset_version": {}, "range_constraints": {}, "schema_version": {}})
    assert caught.value.field == "graph_module.graph"


def test_a_table_of_payloads():
    meta = {
        "dtype": 7, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}, "layout": 7,
        "requires_grad": True, "device": {"type": "cuda", "index": 1},
    }  # fmt: skip
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta}
    table = checked_payloads({"config": {"a.b": entry}}, re.compile(r"weight_\d+"))
    assert table["a.b"]["tensor_meta"]["device"] == {"type": "cpu", "index": None}
    for change in ({"use_pickle": True}, {"path_name": "../weight_0"}, {"path_name": "weight_0/../x"}, {"is_param": 1}):
        with pytest.raises(Unsafe):
            checked_payloads({"config": {"a.b": entry | change}}, re.compile(r"weight_\d+"))
