"""Functions of one tensor against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32, single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("op", [
    "Relu", "Sigmoid", "Tanh", "Exp", "Erf", "Softsign", "Softplus", "HardSwish", "Reciprocal", "Sign", "Round", "Sin",
    "Cos", "Atan", "Floor", "Ceil", "Neg", "Abs", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "HardSigmoid",
    "LogSoftmax", "Softmax",
])
def test_a_function_of_one_tensor(tmp_path, op):
    assert single(tmp_path, op, ["N", 3, 5]) < 1e-5


@pytest.mark.parametrize(("opset", "op", "constants", "attributes"), [
    (6 + 1, "Clip", [], {"min": -0.5, "max": 0.5}),
    (13, "Clip", [None, f32(1)[0]], {}),
    (17, "PRelu", [f32(3, 1)], {}),
    (17, "PRelu", [f32(3, 5)], {}),
    (17, "Selu", [], {"alpha": 1.5, "gamma": 1.2}),
    (17, "HardSigmoid", [], {"alpha": 1 / 6}),
    (11, "Softmax", [], {"axis": 1}),
    (20, "Gelu", [], {"approximate": "tanh"}),
    (18, "Mish", [], {}),
])
def test_what_attributes_and_opsets_change(tmp_path, opset, op, constants, attributes):
    assert single(tmp_path, op, ["N", 3, 5], constants, opset=opset, **attributes) < 1e-5
