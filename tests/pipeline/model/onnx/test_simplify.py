"""onnxsim folds what is constant and leaves the batch free."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from isobit.pipeline.model.onnx import simplify
from isobit.pipeline.model.onnx.simplify import simplified, with_free_sizes
from tests.examples.onnx_files import write


@pytest.fixture
def proto(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["z"]), helper.make_node("Identity", ["z"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    return onnx.load(str(write(tmp_path / "a.onnx", nodes, {"x": [10, 3, 4]}, ["y"], constants)))


def sizes(proto):
    return [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]


def test_the_batch_stays_free(proto):
    result, note = simplified(proto, {"x": (1, 3, 4)})
    assert note == "" and len(result.graph.node) < len(proto.graph.node)
    assert sizes(result) == ["batch", 3, 4]
    assert sizes(with_free_sizes(proto, {"x": (1, 6, 4)}, batch=2)) == [2, 6, 4]
    assert sizes(proto) == [10, 3, 4]


def test_what_onnxsim_cannot_take_goes_in_as_it_is(proto, monkeypatch):
    monkeypatch.setattr(simplify, "PROGRAM", "raise SystemExit('cannot')")
    result, note = simplified(proto, {"x": (1, 3, 4)})
    assert len(result.graph.node) == 6 and note == "not simplified, taken as it is: onnxsim says: cannot"
    monkeypatch.setattr(simplify, "PROGRAM", "import os; os.abort()")
    assert "ended with -6" in simplified(proto, {"x": (1, 3, 4)})[1]
