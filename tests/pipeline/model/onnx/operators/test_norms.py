"""Normalisations against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32, single

pytestmark = pytest.mark.onnxruntime


def test_batch_norm(tmp_path):
    statistics = [f32(3), f32(3), f32(3), abs(f32(3)) + 0.5]
    assert single(tmp_path, "BatchNormalization", ["N", 3, 4, 5], statistics, epsilon=1e-3) < 1e-5


def test_instance_layer_and_group_norm(tmp_path):
    assert single(tmp_path, "InstanceNormalization", ["N", 3, 4, 5], [f32(3), f32(3)]) < 1e-5
    assert single(tmp_path, "LayerNormalization", ["N", 3, 4], [f32(4), f32(4)]) < 1e-5
    assert single(tmp_path, "LayerNormalization", ["N", 3, 4], [f32(3, 4)], axis=1) < 1e-5
    assert single(tmp_path, "GroupNormalization", ["N", 4, 3, 3], [f32(2), f32(2)], opset=18, num_groups=2) < 1e-5
    assert single(tmp_path, "GroupNormalization", ["N", 4, 3, 3], [f32(4), f32(4)], opset=21, num_groups=2) < 1e-5


def test_across_channels(tmp_path):
    assert single(tmp_path, "LRN", ["N", 6, 3, 3], size=3, alpha=0.1) < 1e-5
    assert single(tmp_path, "LpNormalization", ["N", 6], axis=1) < 1e-5
