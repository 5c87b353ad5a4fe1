"""Serialized models are read and edited as bytes, and come out as the onnx package would have made them."""

import ast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from isobit.backends.onnx import model_bytes
from isobit.backends.onnx.device.device_runner import open_session
from isobit.backends.onnx.model_bytes import OWN, cut_at, quantized_tensors, with_outputs

pytestmark = pytest.mark.onnxruntime


def chain():
    """input -> +1 -> `a` -> -2 -> `b` -> -3 -> logits; `b` is read twice."""
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "0", "1"], ["a"]),
        helper.make_node("Min", ["a", "2"], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "0", "1"], ["3"]),
        helper.make_node("DequantizeLinear", ["b", "0", "1"], ["4"]),
        helper.make_node("Add", ["3", "4"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in (("0", np.float32(1)), ("1", np.uint8(0)), ("2", np.uint8(9)))
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])], constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return model.SerializeToString()


def test_quantized_tensors_are_the_values_with_names_of_their_own():
    assert quantized_tensors(chain()) == ["a", "b"]


def test_outputs_are_added():
    model = onnx.ModelProto.FromString(with_outputs(chain(), ["a", "x" * 300]))
    added = model.graph.output[1:]
    assert [value.name for value in added] == ["a", "x" * 300]
    assert all(value.type.tensor_type.elem_type == TensorProto.UINT8 for value in added)


def test_a_cut_feeds_who_reads_a_tensor_and_gives_what_would_have_been_there():
    cut = cut_at(chain(), {"a": [2], "b": [2]})
    model = onnx.ModelProto.FromString(cut)
    assert [value.name for value in model.graph.input] == ["input", "a", "b"]
    dims = model.graph.input[1].type.tensor_type.shape.dim
    assert dims[0].dim_param == "N" and dims[1].dim_value == 2
    codes = {"a": np.array([[3, 30]], np.uint8), "b": np.array([[5, 7]], np.uint8)}
    outputs = [OWN + "a", OWN + "b", "logits"]
    a, b, logits = open_session(cut).run(outputs, {"input": np.array([[1, 20]], np.float32), **codes})
    assert a.tolist() == [[1, 20]] and b.tolist() == [[3, 9]] and logits.tolist() == [[10, 14]]


def test_nothing_else_is_touched():
    assert onnx.ModelProto.FromString(cut_at(chain(), {})) == onnx.ModelProto.FromString(chain())


@pytest.mark.parametrize("content", [chain()[:-1], b"\x0b", b"\x80", b"\x0a\xff"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ValueError, match="model"):
        quantized_tensors(content)


def test_the_syntax_is_that_of_python_3_8():
    with open(model_bytes.__file__) as file:
        ast.parse(file.read(), feature_version=(3, 8))
