"""The schema of an exported program's description; whole files are tested in test_exported_file.py."""

import re

import pytest

from isobit.pipeline.model.exported_grammar import Unsafe
from isobit.pipeline.model.exported_schema import checked_payloads, checked_program


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
