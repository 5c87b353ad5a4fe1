"""Reading without trust: damaged, hostile and quantized files are refused with what is wrong and where."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.onnx.file import open_file, read_graph
from tests.examples.onnx_files import f32, write


def read(path):
    return read_graph(open_file(path), path)


def linear(path, **constants):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")]
    return write(path, nodes, {"x": ["N", 3]}, ["y"], {"w": f32(3, 2), **constants})


def test_constants_of_every_place(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=2.0), helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("Constant", [], ["s"], value_ints=[0, 3]), helper.make_node("Reshape", ["a", "s"], ["y"]),
    ]
    path = write(tmp_path / "a.onnx", nodes, {"x": ["N", 3], "listed": [3]}, ["y"], {"listed": f32(3)})
    graph = read(path)
    assert [port.name for port in graph.inputs] == ["x"] and graph.inputs[0].shape == (None, 3)
    assert graph.constants["k"].item() == 2.0 and graph.constants["s"].tolist() == [0, 3]
    assert [node.op for node in graph.nodes] == ["Mul", "Reshape"]


def test_half_a_file_and_no_file(tmp_path):
    path = linear(tmp_path / "a.onnx")
    content = path.read_bytes()
    for part in (content[: len(content) // 2], b"not a protobuf at all", b"\x08\x08"):
        path.write_bytes(part)
        with pytest.raises(InputError, match="not a whole ONNX file|holds no graph|opset|inputs"):
            read(path)


@pytest.mark.parametrize(("op", "domain", "said"), [
    ("DequantizeLinear", "", "quantized already: it holds DequantizeLinear"),
    ("QLinearConv", "", "quantized already"), ("Loop", "", "Loop is control flow"),
    ("FusedConv", "com.microsoft", "domain 'com.microsoft'"),
])
def test_what_is_not_taken_is_named(tmp_path, op, domain, said):
    node = helper.make_node(op, ["x", "w", "w"], ["y"], name="wrong", domain=domain)
    with pytest.raises(InputError, match=rf"{said}[\s\S]*wrong"):
        read(write(tmp_path / "a.onnx", [node], {"x": ["N", 3]}, ["y"], {"w": f32(1)}))


def outside(path, **said):
    model = onnx.load(str(linear(path)))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_outside_lie_beside_the_file(tmp_path):
    (tmp_path / "w.bin").write_bytes(f32(3, 2).tobytes())
    path = outside(tmp_path / "a.onnx", location="w.bin", offset="0", length="24")
    assert np.array_equal(read(path).constants["w"].numpy(), f32(3, 2))


@pytest.mark.parametrize(("said", "message"), [
    ({"location": "../secret"}, "own folder"), ({"location": "/etc/passwd"}, "own folder"),
    ({"location": "gone.bin"}, "not there"), ({"location": "w.bin", "offset": "-4"}, "no place in a file"),
    ({"location": "w.bin", "offset": "20", "length": "24"}, "beyond the end"),
    ({"location": "link.bin"}, "own folder"), ({"location": ""}, "own folder"),
])
def test_weights_elsewhere_are_refused(tmp_path, said, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(24))
    (folder / "w.bin").write_bytes(bytes(24))
    (folder / "link.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=message):
        open_file(outside(folder / "a.onnx", **said))


@pytest.mark.parametrize(("dims", "kind"), [([1 << 40, 1 << 20], 1), ([-1, 6], 1), ([3, 2], 99), ([3, 2], 8)])
def test_a_tensor_that_is_not_what_it_declares(tmp_path, dims, kind):
    path = linear(tmp_path / "a.onnx")
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend(dims)
    tensor.data_type = kind
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="tensor 'w'"):
        read(path)


@pytest.mark.parametrize("location", ["w.bin\0", "w" * 5000, "a/" * 4000 + "w"])
def test_weights_at_a_place_that_no_file_system_has(tmp_path, location):
    with pytest.raises(InputError, match="own folder"):
        open_file(outside(tmp_path / "a.onnx", location=location))


def test_an_attribute_without_a_value(tmp_path):
    node = helper.make_node("Flatten", ["x"], ["y"], name="flat")
    node.attribute.append(onnx.AttributeProto(name="axis"))
    with pytest.raises(InputError, match=r"attribute 'axis' has no value[\s\S]*flat"):
        read(write(tmp_path / "a.onnx", [node], {"x": ["N", 3]}, ["y"]))


@pytest.mark.parametrize(("text", "field"), [(b"Gemm", "op_type"), (b"fc", "name")])
def test_a_name_that_is_no_text(tmp_path, text, field):
    path = linear(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes().replace(text, b"\xff" * len(text), 1))
    with pytest.raises(InputError, match=f"'{field}' of a NodeProto is no text"):
        read(path)
