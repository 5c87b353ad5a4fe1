"""Changes of shape against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.onnx_files import single

pytestmark = pytest.mark.onnxruntime


def test_new_shapes(tmp_path):
    assert single(tmp_path, "Reshape", ["N", 4, 6], [np.array([0, -1])]) == 0
    assert single(tmp_path, "Flatten", ["N", 4, 6], axis=2) == 0
    assert single(tmp_path, "Unsqueeze", ["N", 4, 6], [np.array([1, -1])]) == 0
    assert single(tmp_path, "Squeeze", ["N", 1, 6], opset=11, axes=[1]) == 0
    assert single(tmp_path, "Transpose", ["N", 4, 6], perm=[0, 2, 1]) == 0
    assert single(tmp_path, "Tile", ["N", 4, 6], [np.array([1, 2, 3])]) == 0
    assert single(tmp_path, "Expand", ["N", 1, 6], [np.array([1, 4, 1])]) == 0
    assert single(tmp_path, "Trilu", ["N", 4, 6], [np.array(1)], upper=0) == 0


def test_what_means_the_batch_of_the_file_follows_the_batch(tmp_path):
    assert single(tmp_path, "Reshape", [1, 4, 6], [np.array([1, 24])]) == 0
    assert single(tmp_path, "Reshape", [1, 4, 6], [np.array([1, -1, 3])]) == 0


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding(tmp_path, mode):
    assert single(tmp_path, "Pad", ["N", 2, 4, 6], [np.array([0, 0, 1, 2, 0, 0, 0, 1])], mode=mode) == 0
    assert single(tmp_path, "Pad", ["N", 2, 6], opset=9, pads=[0, 0, 2, 0, 0, 1], mode=mode) == 0


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixels_and_channels(tmp_path, mode):
    assert single(tmp_path, "DepthToSpace", ["N", 8, 2, 3], blocksize=2, mode=mode) == 0
    assert single(tmp_path, "SpaceToDepth", ["N", 2, 4, 6], blocksize=2) == 0
