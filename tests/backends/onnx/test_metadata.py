"""Texts in an ONNX file: they are there, the rest stays, and a second time replaces them."""

import onnx
from onnx import TensorProto, helper

from isobit.backends.onnx.metadata import add_metadata


def written(path):
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])), path)
    return path


def test_texts_are_added_and_replaced_and_the_graph_stays(tmp_path):
    path = written(tmp_path / "model.onnx")
    before = onnx.load(path).graph
    add_metadata(path, {"a": "1", "b": "ü"})
    add_metadata(path, {"a": "2"})
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"a": "2", "b": "ü"}
    assert model.graph == before


def test_the_same_texts_give_the_same_bytes(tmp_path):
    paths = [written(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    for path in paths:
        add_metadata(path, {"a": "1", "b": "2"})
    assert paths[0].read_bytes() == paths[1].read_bytes()
