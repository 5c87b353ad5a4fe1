"""Networks with several inputs and outputs, of any rank, from the module to files that run: no code differs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isobit import passes
from isobit.backends.device.golden import golden_inputs, golden_outputs, port_names, split_outputs
from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.rules import integer_target
from isobit.calib.calibrate import calibrate
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.network_inputs import run_graph
from tests.examples import ports

OUTPUTS = {
    "detector": ("boxes", "scores"), "segmenter": ("out", "aux"), "siamese": ("logits",),
    "steered": ("output_0", "output_1"), "tokens": ("logits",), "audio": ("logits",),
    "heads": ("rows", "boxes", "left", "planes", "right", "scores", "best", "anchors"),
    "ranks": ("output_0", "output_1", "output_2", "output_3"), "odd": ("rows", "again", "middle", "image"),
}


def check(name, target, folder):
    proven = ports.proven(name, target, folder)
    assert tuple(proven.report.deployed.outputs) == OUTPUTS[name]
    for level in proven.report.levels:
        differing = (level.codes.differing, level.unexplained, level.exact_differing)
        assert not level.gated or (level.codes.compared > 0 and differing == (0, 0, 0))
    reference = run_graph(lambda *x: proven.reference.evaluate(proven.x), proven.x)
    for got, wanted in zip(reference, ports.float_outputs(name, proven.x), strict=True):
        assert got.shape == wanted.shape and got.is_floating_point() == wanted.is_floating_point()
        if got.is_floating_point():
            assert float((got - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
    return proven


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.onnxruntime
def test_onnx(name, tmp_path):
    check(name, "onnx", tmp_path)


@pytest.mark.parametrize("name", ["siamese", "odd"])
@pytest.mark.onnxruntime
def test_onnx_qoperator(name, tmp_path):
    check(name, "onnx-qoperator", tmp_path)


@pytest.mark.parametrize("name", [*OUTPUTS])
def test_reference(name, tmp_path):
    check(name, "reference", tmp_path)


@pytest.mark.parametrize("name", ["detector", "siamese", "ranks"])
@pytest.mark.parametrize("method", ["qdrop", "brecq"])
def test_units_with_several_inputs_and_outputs_learn(name, method, tmp_path):
    edits = ("images.count=8", "images.batch_size=4", "method.steps=4")
    level = ports.proven(name, "reference", tmp_path, f"{method}_w4a4", edits).report.deployed
    assert level.codes.compared > 0 and (level.codes.differing, level.exact_differing) == (0, 0)


@pytest.mark.parametrize("name", ["siamese", "steered", "tokens", "audio", "heads"])
@pytest.mark.parametrize("target", ["c", pytest.param("tvm", marks=pytest.mark.tvm)])
def test_integer_targets(name, target, tmp_path):
    check(name, target, tmp_path)


@pytest.mark.parametrize("name", ["detector", "segmenter", "odd"])
def test_integer_targets_put_several_outputs_in_a_row(name):
    model, x = ports.network(name)
    captured = capture(model, x[:1])
    quantized = passes.quantize(captured, load_recipe("minmax_w8a8"), integer_target("c", "generic"))
    program = lower(passes.legalize(calibrate(quantized, x))[0])
    assert dict(program.outputs) == {key: shape[1:] for key, shape in captured.output_shapes.items()}
    assert program.logits == (sum(math.prod(shape) for _, shape in program.outputs),)
    assert [entry["name"] for entry in program.ports["outputs"]] == list(OUTPUTS[name])


def test_outputs_in_a_row_are_told_apart_by_the_description():
    described = {"outputs": [{"name": "boxes", "shape": [2, 2]}, {"name": "count", "shape": []}]}
    found = split_outputs(np.arange(10, dtype=np.float32).reshape(2, 5), described)
    assert found["boxes"].tolist() == [[[0, 1], [2, 3]], [[5, 6], [7, 8]]] and found["count"].tolist() == [4, 9]
    assert port_names(described) == (["input"], ["boxes", "count"])
    assert list(split_outputs(np.zeros((1, 2), np.float32), {})) == ["logits"] and port_names({})[1] == ["logits"]


def test_golden_keys():
    golden = {"input.left": np.zeros(1), "input": np.ones(1), "output.boxes": np.zeros(1), "logits": np.ones(1)}
    assert list(golden_inputs(golden)) == ["left", "input"] and golden_outputs(golden) == ["boxes", "logits"]
