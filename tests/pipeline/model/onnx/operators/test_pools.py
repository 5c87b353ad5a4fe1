"""Pools against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("attributes", [
    {"kernel_shape": [2, 2], "strides": [2, 2]}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "strides": [2, 2]}, {"kernel_shape": [2, 3], "ceil_mode": 1,
                                                                      "strides": [2, 2]},
    {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_windows(tmp_path, op, attributes):
    assert single(tmp_path, op, ["N", 3, 8, 9], **attributes) < 1e-5


def test_padding_may_count(tmp_path):
    for pads in ([1, 1, 1, 1], [0, 0, 1, 1]):
        how = {"kernel_shape": [3, 3], "pads": pads, "count_include_pad": 1}
        assert single(tmp_path, "AveragePool", ["N", 3, 8, 9], **how) < 1e-5


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_over_space(tmp_path, op):
    assert single(tmp_path, op, ["N", 3, 8, 9]) < 1e-5


def test_one_axis_and_powers(tmp_path):
    assert single(tmp_path, "MaxPool", ["N", 3, 9], kernel_shape=[3], pads=[1, 1]) == 0
    assert single(tmp_path, "LpPool", ["N", 3, 8, 9], kernel_shape=[2, 2], strides=[2, 2]) < 1e-5
