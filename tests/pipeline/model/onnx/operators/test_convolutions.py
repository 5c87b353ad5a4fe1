"""Convolutions against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32, single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("attributes", [
    {}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, {"pads": [0, 1, 2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID"}, {"dilations": [2, 1]},
])
def test_two_spatial_axes(tmp_path, attributes):
    assert single(tmp_path, "Conv", ["N", 3, 8, 9], [f32(4, 3, 3, 3), f32(4)], **attributes) < 1e-5


def test_other_ranks_and_groups(tmp_path):
    assert single(tmp_path, "Conv", ["N", 3, 9], [f32(4, 3, 3)], pads=[0, 1]) < 1e-5
    assert single(tmp_path, "Conv", ["N", 2, 5, 6, 7], [f32(4, 2, 3, 3, 3)]) < 1e-5
    assert single(tmp_path, "Conv", ["N", 4, 8, 9], [f32(4, 1, 3, 3)], group=4) < 1e-5


@pytest.mark.parametrize("attributes", [
    {"strides": [2, 2]}, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    {"strides": [2, 2], "pads": [0, 0, 1, 1]}, {"strides": [2, 2], "pads": [1, 1, 0, 0]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"strides": [2, 2], "output_shape": [10, 12]}, {"group": 2},
])
def test_transposed(tmp_path, attributes):
    weight = f32(4, 3 if attributes.get("group") is None else 2, 3, 3)
    bias = f32(weight.shape[1] * attributes.get("group", 1))
    assert single(tmp_path, "ConvTranspose", ["N", 4, 5, 6], [weight, bias], **attributes) < 1e-5
