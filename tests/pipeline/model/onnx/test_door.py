"""A file by its path: shapes on the command line, notes, and the model that a build takes."""

from __future__ import annotations

import pytest
from onnx import helper

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.model.onnx.door import load_onnx
from isobit.pipeline.samples.inputs import exported_shape
from tests.examples.onnx_files import f32, write

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def path(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="/stem/Conv"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]), helper.make_node("Flatten", ["b"], ["scores"]),
    ]
    return write(tmp_path / "net.onnx", nodes, {"x": [10, 3, 32, 32]}, ["scores"], {"w": f32(4, 3, 3, 3)})


def test_another_size_than_declared_is_noted_and_proven(path):
    network, origin, notes = load_onnx(path, ["x=1x3x16x24"])
    assert notes == ("the input 'x' is declared [10, 3, 32, 32] and compiled for [10, 3, 16, 24]",)
    assert origin.inputs[0].shape == (10, 3, 16, 24) and origin.outputs == ("scores",)
    assert "at most" in origin.check(network, origin.random_samples(2))
    assert load_onnx(path, ["1,3,16,24"], simplify=False)[1] == origin


@pytest.mark.parametrize("text", ["x=3xx4", "x=", "x=0x3x4x4", "x=1x3x-4x4", "y=1x3x4x4"])
def test_what_is_no_shape_is_refused(path, text):
    with pytest.raises(InputError) as refusal:
        load_onnx(path, [text])
    assert refusal.value.field == "input_shape"


def test_a_model_file_by_its_suffix(path):
    loaded = load_model(path)
    assert loaded.origin is not None and loaded.origin.input_names == ("x",)
    assert exported_shape(loaded) == (3, 32, 32) and loaded.name == "net" and loaded.arch is None
    with pytest.raises(InputError, match="holds its own network") as refusal:
        load_model(path, "resnet18")
    assert refusal.value.field == "arch"
    other = path.with_suffix(".pth")
    other.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="no .onnx"):
        load_model(other, input_shapes=["1x3x8x8"])
