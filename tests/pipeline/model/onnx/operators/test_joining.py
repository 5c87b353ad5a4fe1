"""Concat and Split against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32, single

pytestmark = pytest.mark.onnxruntime


def test_split_evenly_and_by_sizes(tmp_path):
    import numpy as np

    assert single(tmp_path, "Split", ["N", 6, 5], outputs=2, axis=1) == 0
    assert single(tmp_path, "Split", ["N", 6, 5], [np.array([1, 5])], outputs=2, axis=1) == 0
    assert single(tmp_path, "Split", ["N", 6, 5], opset=11, outputs=2, axis=1, split=[2, 4]) == 0


def test_a_constant_is_repeated_for_every_sample(tmp_path):
    assert single(tmp_path, "Concat", [1, 6, 5], [f32(1, 1, 5)], axis=1) == 0
