"""Elements taken by their places, against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import network, single, write

pytestmark = pytest.mark.onnxruntime


def places(*values):
    import numpy as np

    return np.array(values, dtype=np.int64)


def test_slices_by_attributes_and_by_inputs(tmp_path):
    assert single(tmp_path, "Slice", ["N", 6, 5], opset=9, starts=[1], ends=[-1], axes=[1]) == 0
    assert single(tmp_path, "Slice", ["N", 6, 5], [places(5), places(-100), places(1), places(-2)]) == 0
    assert single(tmp_path, "Slice", ["N", 6, 5], [places(-1), places(-(2**63)), places(1), places(-1)]) == 0
    assert single(tmp_path, "Slice", ["N", 6, 5], [places(0, 1), places(2**31 - 1, 3), places(0, 2)]) == 0


def test_gather_of_one_of_some_and_of_a_table(tmp_path):
    assert single(tmp_path, "Gather", ["N", 6, 5], [places(2)[0]], axis=1) == 0
    assert single(tmp_path, "Gather", ["N", 6, 5], [places(2, -1)], axis=1) == 0
    assert single(tmp_path, "Gather", ["N", 6, 5], [places(2, 1, 0, 3).reshape(2, 2)], axis=2) == 0


def test_elements_at_computed_places(tmp_path):
    from onnx import helper

    nodes = [
        helper.make_node("ArgMax", ["x"], ["place"], axis=1),
        helper.make_node("GatherElements", ["x", "place"], ["y"], axis=1),
    ]
    built, origin = network(write(tmp_path / "places.onnx", nodes, {"x": ["N", 6]}, ["y"]))
    samples = origin.random_samples(3)
    assert origin.differences(built, samples)["y"] == 0
    assert (built(*samples) == samples[0].amax(1, keepdim=True)).all()
