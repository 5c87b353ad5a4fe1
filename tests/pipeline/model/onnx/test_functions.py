"""Local functions are written out where they are called, and no file can ask for more nodes than a network has."""

from __future__ import annotations

import time

import onnx
import pytest
from onnx import helper

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.onnx.file import open_file
from isobit.pipeline.model.onnx.functions import _written_size, written_out
from tests.examples.onnx_files import f32, write

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def function(name, *nodes):
    return helper.make_function("own", name, ["u"], ["v"], list(nodes), OPSETS)


def call(name, given="u", result="v"):
    return helper.make_node(name, [given], [result], domain="own")


def calling(path, first, functions):
    write(path, [call(first, "x", "y")], {"x": ["N", 3]}, ["y"], {"w": f32(3)})
    model = onnx.load(str(path))
    model.opset_import.extend(OPSETS[1:])
    model.functions.extend(functions)
    onnx.save(model, str(path))
    return path


def doubling(count):
    """F0 calls F1 twice, and so on."""
    twice = [function(f"F{n}", call(f"F{n + 1}", "u", "w"), call(f"F{n + 1}", "w", "v")) for n in range(count)]
    return [*twice, function(f"F{count}", helper.make_node("Relu", ["u"], ["v"]))]


def test_functions_are_written_out(tmp_path):
    proto = open_file(calling(tmp_path / "a.onnx", "F0", doubling(3)))
    assert [node.op_type for node in proto.graph.node] == ["Relu"] * 8 and not proto.functions


@pytest.mark.parametrize("count", [19, 27, 63, 5_000])
def test_functions_that_double_are_counted_and_not_written_out(tmp_path, count):
    path = calling(tmp_path / "a.onnx", "F0", doubling(count))
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"{count + 1} functions[\s\S]*262,144 nodes"):
        open_file(path)
    assert time.monotonic() - began < 5


def test_calls_within_the_graph_of_an_attribute_count(tmp_path):
    inside = helper.make_graph([call("F0", "x", "z")], "inside", [], [])
    model = onnx.load(str(calling(tmp_path / "a.onnx", "F0", doubling(27))))
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inside, else_branch=inside))
    with pytest.raises(InputError, match="28 functions"):
        written_out(model, tmp_path / "a.onnx")


def test_bytes_that_functions_repeat_count(tmp_path):
    constant = helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(f32(1 << 16)))
    large = function("F12", constant, helper.make_node("Add", ["u", "w"], ["v"]))
    path = calling(tmp_path / "a.onnx", "F0", [*doubling(12)[:-1], large])
    with pytest.raises(InputError, match="13 functions"):
        open_file(path)


@pytest.mark.parametrize("functions", [
    [function("F0", call("F0"))], [function("F0", call("F1")), function("F1", call("F0"))],
    [function("F0", call("F1")), function("F1", call("F2")), function("F2", call("F1"))],
])
def test_a_circle_of_calls_is_named(tmp_path, functions):
    with pytest.raises(InputError, match="calls itself"):
        open_file(calling(tmp_path / "a.onnx", "F0", functions))


def test_calls_may_be_deep(tmp_path):
    chain = [function(f"F{n}", call(f"F{n + 1}")) for n in range(60)]
    path = calling(tmp_path / "a.onnx", "F0", [*chain, function("F60", helper.make_node("Relu", ["u"], ["v"]))])
    assert [node.op_type for node in open_file(path).graph.node] == ["Relu"]


def test_calls_may_be_many(tmp_path):
    """Each is looked at once: 3,000 of them in a second, where looking at all of them for each took ten."""
    leaves = [function(f"F{n}", helper.make_node("Relu", ["u"], ["v"])) for n in range(1, 3001)]
    names = [f"w{n}" for n in range(3001)]
    calls = [helper.make_node(f"F{n + 1}", [names[n]], [names[n + 1]], domain=call("F0").domain) for n in range(3000)]
    proto = onnx.load(str(calling(tmp_path / "a.onnx", "F0", [*leaves, function("F0", *calls)])))
    began = time.process_time()
    assert _written_size(proto, tmp_path / "a.onnx")[0] == 3000 and time.process_time() - began < 3
