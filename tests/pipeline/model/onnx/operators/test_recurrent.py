"""Recurrent operators against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "gates", "attributes"), [
    ("LSTM", 4, {}), ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {}),
])
def test_over_a_sequence(tmp_path, op, gates, attributes, direction):
    import numpy as np
    from onnx import helper

    from tests.examples.onnx_files import network, write

    count = 2 if direction == "bidirectional" else 1
    constants = {"w": f32(count, gates * 5, 4), "r": f32(count, gates * 5, 5), "b": f32(count, 2 * gates * 5)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(op, ["t", "w", "r", "b"], ["s"], hidden_size=5, direction=direction, **attributes),
        helper.make_node("Transpose", ["s"], ["y"], perm=[2, 0, 1, 3]),
    ]
    path = write(tmp_path / "recurrent.onnx", nodes, {"x": ["N", 6, 4]}, ["y"], constants)
    built, origin = network(path)
    assert origin.differences(built, origin.random_samples(3))["y"] < 1e-5
    assert np.isfinite(built(*origin.random_samples(3)).numpy()).all()
