"""Resizing against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.onnx_files import single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("scale", [2.0, 3.0, 1.5, 0.5])
@pytest.mark.parametrize(("mode", "places"), [
    ("nearest", "asymmetric"), ("nearest", "half_pixel"), ("linear", "half_pixel"), ("linear", "asymmetric"),
    ("linear", "align_corners"), ("linear", "pytorch_half_pixel"), ("cubic", "half_pixel"),
])
def test_by_a_scale(tmp_path, mode, places, scale):
    scales = [None, np.array([1, 1, scale, scale], dtype=np.float32)]
    how = {"mode": mode, "coordinate_transformation_mode": places}
    if mode == "nearest":
        how["nearest_mode"] = "floor" if places == "asymmetric" else "round_prefer_floor"
    assert single(tmp_path, "Resize", ["N", 2, 6, 8], scales, opset=13, **how) < 1e-5


def test_to_sizes_and_in_older_opsets(tmp_path):
    sizes = [None, None, np.array([1, 2, 12, 4])]
    assert single(tmp_path, "Resize", [1, 2, 6, 8], sizes, opset=13, mode="linear") < 1e-5
    scales = np.array([1, 1, 2, 2], dtype=np.float32)
    assert single(tmp_path, "Resize", ["N", 2, 6, 8], [scales], opset=10, mode="linear") < 1e-5
    assert single(tmp_path, "Upsample", ["N", 2, 6, 8], [scales], opset=9, mode="nearest") == 0
