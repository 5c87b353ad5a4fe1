"""A file that ends earlier: at values that are named, so that what only others need may be of any kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.model.onnx.call import OPERATORS
from isobit.pipeline.model.onnx.ends import ended_at, wants_less


def detector(folder: Path) -> Path:
    """Boxes [N, 16, 4] and scores [N, 1, 16] of a 4x4 map, of which a file's own NMS chooses; written to `folder`."""
    generator = np.random.default_rng(0)
    constants = {
        "w": generator.normal(size=(5, 3, 1, 1)).astype(np.float32), "rows": np.array([0, 5, 16], np.int64),
        "parts": np.array([4, 1], np.int64), "most": np.array([3], np.int64), "iou": np.array([0.5], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"], "head"),
        helper.make_node("Reshape", ["map", "rows"], ["flat"], "flatten"),
        helper.make_node("Split", ["flat", "parts"], ["places", "logits"], "parts", axis=1),
        helper.make_node("Transpose", ["places"], ["boxes"], "turn", perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["logits"], ["scores"], "sigmoid"),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou"], ["chosen"], "nms"),
    ]
    graph = helper.make_graph(
        nodes, "detector", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("chosen", TensorProto.INT64, [None, 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "detector.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_choice_of_boxes_is_refused_with_what_leaves_it_out(tmp_path):
    with pytest.raises(InputError, match="NonMaxSuppression is not known") as error:
        load_model(detector(tmp_path))
    assert "`outputs=boxes` and `outputs=scores`" in error.value.hint


@pytest.mark.parametrize("simplify", [True, False])
def test_a_network_that_ends_before_it_is_read_captured_and_proven(tmp_path, simplify):
    loaded = load_model(detector(tmp_path), outputs=["boxes", "scores"], simplify=simplify)
    samples = loaded.origin.random_samples()
    assert "2 outputs" in loaded.origin.check(loaded.network, samples)
    captured = capture(loaded.network, samples[0][:1], outputs=["boxes", "scores"],
                       ports=(loaded.origin.input_names, loaded.origin.outputs))  # fmt: skip
    assert captured.output_shapes == {"boxes": (None, 16, 4), "scores": (None, 1, 16)}
    with torch.no_grad():
        assert bool((captured.graph(samples[0])[1] > 0).all())


def test_an_unknown_value_is_answered_with_the_outputs(tmp_path):
    with pytest.raises(InputError, match="no output 'boxs'") as error:
        load_model(detector(tmp_path), outputs=["boxs"])
    assert error.value.field == "outputs" and "boxes" in error.value.hint and "chosen" in error.value.allowed


def test_a_file_is_ended_only_where_it_must_be(tmp_path):
    proto = onnx.load(detector(tmp_path))
    assert wants_less(proto, ["boxes"], OPERATORS) and not wants_less(proto, [], OPERATORS)
    ended = ended_at(proto, ["boxes"])
    assert [node.name for node in ended.graph.node] == ["head", "flatten", "parts", "turn"]
    assert not wants_less(ended, ["boxes"], OPERATORS) and len(proto.graph.node) == 6
