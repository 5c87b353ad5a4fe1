"""The bench of ONNX files: samples are what the networks read, and the yardstick measures what it says."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tools.check import onnx_files

pytestmark = pytest.mark.onnxruntime


def _network(path):
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])], [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), path)


def test_the_yardstick_is_onnx_runtimes_best(tmp_path):
    path = tmp_path / "conv.onnx"
    _network(path)
    x = np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32)
    file = onnx_files.File("conv.onnx", (3, 8, 8), lambda data, number: x[number])
    best = onnx_files.static(file, path, x[:4], x[4:], tmp_path)
    assert list(best) == ["y"] and 20 < best["y"] < 60
    file = onnx_files.File("conv.onnx", (3, 8, 8), lambda data, number: x[number], left_out="conv")
    assert onnx_files.static(file, path, x[:4], x[4:], tmp_path)["y"] > 100  # nothing is quantized


def test_drawn_samples_have_their_networks_shape_and_repeat():
    text, chord = onnx_files._text(3, 320), onnx_files._chord(3, 43844)
    assert text.shape == (3, 320, 320) and np.array_equal(text, onnx_files._text(3, 320)) and text.std() > 0.2
    assert chord.shape == (43844, 1) and np.abs(chord).max() == pytest.approx(0.8)
    assert not np.array_equal(chord, onnx_files._chord(4, 43844))


def test_decibel():
    assert onnx_files.decibel(np.float32([3, 4]), np.float32([3, 4.5])) == pytest.approx(20)
    assert onnx_files.decibel(np.float32([1]), np.float32([1])) == math.inf


def test_fidelity_is_the_metric_against_the_float_answer():
    file = onnx_files.File("maps.onnx", (1, 4, 4), lambda data, number: None, metrics=("iou:threshold=0.3", "f1"))
    float_says = np.zeros((1, 1, 4, 4), np.float32)
    float_says[..., :2] = 0.9
    got = float_says.copy()
    got[..., 1] = 0.1
    assert onnx_files.fidelity(file, {"map": float_says}, {"map": got}) == {"iou:threshold=0.3": 50.0, "f1": 66.6667}
    assert onnx_files.FILES["ultraface"].measures.size == (240, 320)
