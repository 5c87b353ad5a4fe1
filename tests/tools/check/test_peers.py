"""Other products on arrays: a file is quantized and measured, labels or a user's judge decide."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tools.check import peers

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    weights = draw.standard_normal((4, 12)).astype(np.float32)
    x = draw.standard_normal((64, 12)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / peers.FLOAT)
    (tmp_path / peers.NETWORK).write_text("mine")
    labels = (x @ weights.T).argmax(1)
    for name in (peers.CALIBRATION, peers.EVALUATION):
        np.savez(tmp_path / name, x=x, y=labels)
    return tmp_path


def test_the_float_file_and_onnx_runtimes_own(folder, capsys):
    assert peers.main(["run", str(folder), "float", "static-minmax"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["top1"] == 100.0 and 80.0 < lines[1]["top1"] <= 100.0
    assert {node.op_type for node in onnx.load(folder / "static-minmax.onnx").graph.node} >= {"QuantizeLinear"}


def test_a_users_file_judges_what_is_no_class(folder, tmp_path, capsys):
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(found, folder):\n    return {'outputs': len(found)}\n", encoding="utf-8")
    assert peers.main(["run", str(folder), "float", "--judge", str(judge)]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == 1


def test_what_was_measured_is_kept_beside_other_peers(folder, tmp_path):
    kept = tmp_path / "peers.json"
    kept.write_text(json.dumps({"peers": [{"network": "mine", "peer": "float", "top1": 1.0},
                                          {"network": "another", "peer": "float", "top1": 2.0}]}))
    for _ in range(2):
        assert peers.main(["run", str(folder), "float", "--record", str(kept)]) == 0
    found = json.loads(kept.read_text())["peers"]
    assert [(line["network"], line["top1"]) for line in found] == [("another", 2.0), ("mine", 100.0)]
    assert found[1]["cpu"] and found[1]["versions"]["onnxruntime"]
