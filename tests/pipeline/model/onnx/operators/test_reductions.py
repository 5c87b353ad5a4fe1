"""Reductions against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("op", [
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
])
def test_axes_as_an_attribute_and_as_an_input(tmp_path, op):
    import numpy as np

    assert single(tmp_path, op, ["N", 3, 5], opset=13, axes=[1, 2], keepdims=0) < 1e-5
    assert single(tmp_path, op, ["N", 3, 5], [np.array([-1])], opset=18) < 1e-5


def test_sums_take_their_axes_earlier(tmp_path):
    import numpy as np

    assert single(tmp_path, "ReduceSum", ["N", 3, 5], [np.array([1])], opset=13, keepdims=0) < 1e-5
    assert single(tmp_path, "CumSum", ["N", 3, 5], [np.array(1)], reverse=1, exclusive=1) < 1e-5


def test_places_of_the_largest(tmp_path):
    from onnx import TensorProto

    assert single(tmp_path, "ArgMax", ["N", 3, 5], result=TensorProto.INT64, axis=2, keepdims=0) == 0
