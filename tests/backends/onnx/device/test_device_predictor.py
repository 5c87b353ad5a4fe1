"""`predict.py` of an ONNX artifact: a picture goes in without a line of ours on the path."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from isobit.backends.device.standalone import write_predictor
from isobit.backends.onnx.device import device_predictor
from isobit.pipeline.samples.images import image_steps
from isobit.pipeline.samples.preparation import as_input, record_of

STEPS = image_steps(resize=(2, 3), channels="bgr", mean=(0.5,), std=(0.25,))


def write_model(path, weights):
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 2, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def test_the_script_alone_names_the_class(tmp_path):
    weights = np.random.default_rng(0).normal(size=(18, 4)).astype(np.float32)
    write_model(tmp_path / "model.onnx", weights)
    write_predictor(tmp_path, Path(device_predictor.__file__))
    record = {"input": "pixels", "classes": ["ant", "bee", "cow", "dog"], **record_of(STEPS)}
    (tmp_path / "manifest.json").write_text(json.dumps({"preprocessing": record}))
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    done = subprocess.run([sys.executable, "-I", "predict.py", "a.png"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    scores = as_input(picture, STEPS).reshape(1, -1) @ weights
    first = done.stdout.splitlines()[0].split()
    assert first[1:] == [str(scores.argmax()), record["classes"][int(scores.argmax())]]
    assert abs(float(first[0]) - float(scores.max())) < 1e-3


def test_the_script_keeps_to_old_syntax(tmp_path):
    write_predictor(tmp_path, Path(device_predictor.__file__))
    ast.parse((tmp_path / "predict.py").read_text(), feature_version=(3, 8))
    assert "isobit." not in (tmp_path / "predict.py").read_text()
