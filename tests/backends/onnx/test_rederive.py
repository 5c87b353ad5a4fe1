"""Sums and thresholds that are read off the file are those that the build says of its reference."""

import time
from itertools import pairwise

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.backends.onnx.rederive import rederive
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.recipe.file import load_recipe
from tests.examples.onnx_cases import frozen, frozen_with_levels

FORMS = ("onnx", "onnx-qoperator")


def derived(reference, form, folder):
    backend = BACKENDS.get(form)
    backend.emit(reference, folder)
    return backend.derive(folder), {one.name: one for one in backend.arithmetic(reference).every_input()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 3)])
@pytest.mark.parametrize("name", ["relu", "add", "squeeze_excite", "depthwise", "hardtanh", "matmul", "tokens",
                                  "conv_transpose", "folded", "cat_signed", "pad_slice"])
def test_every_digest_is_that_of_the_build(name, bits, form, tmp_path):
    found, said = derived(frozen(name, *bits)[0], form, tmp_path)
    both = [one for one in said.values() if one.name in found and one.digest]
    assert len(both) >= 2
    left = {one.name for one in said.values() if one.digest and one.over == "sums"} - found.keys()
    left -= {each for each in left if each.startswith("mean")}
    assert left <= {"tokens": {"linear_q"}, "folded": {"relu_1_q"}}.get(name, set())  # also of weights that are packed
    for one in both:
        assert found[one.name].digest == one.digest and (found[one.name].bound or 0) <= (one.bound or 0), one
    assert any(found[one.name].bound == one.bound for one in both if one.bound is not None)


def test_codebooks_are_read_and_nested_levels_are_left_alone(tmp_path):
    found, said = derived(frozen_with_levels("add", "generic")[0], "onnx", tmp_path)
    both = [one for one in said.values() if one.name in found and one.digest]
    assert both and all(found[one.name].digest == one.digest for one in both)


@pytest.mark.parametrize(("kind", "change"), [
    ("weight", lambda array: array + (array == array.max())), ("bias", lambda array: array + 1),
    ("scale", lambda array: array * 1.0000002),
])
def test_a_number_that_is_another_gives_another_digest(kind, change, tmp_path):
    found, _ = derived(frozen("relu", 8, 8)[0], "onnx", tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    wanted = {"weight": (onnx.TensorProto.INT8, 4), "bias": (onnx.TensorProto.INT32, 1),
              "scale": (onnx.TensorProto.FLOAT, 0)}[kind]
    tensor = next(each for each in model.graph.initializer if (each.data_type, len(each.dims)) == wanted
                  and numpy_helper.to_array(each).any())
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    again = rederive(tmp_path / "model.onnx")
    assert any(again[name].digest != one.digest for name, one in found.items())


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09\x12")
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX model"):
        rederive(tmp_path / "model.onnx")


class Clamped(nn.Module):
    """A clamp from below alone: the codes that its tensor may have begin above the grid's."""

    def __init__(self, clamp):
        super().__init__()
        self.one, self.clamp, self.two = nn.Conv2d(3, 4, 3), clamp, nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.two(self.clamp(self.one(x))).mean((2, 3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clamp", [nn.Hardtanh(-1, 6), nn.Hardtanh(-0.5, 100)])
def test_codes_that_a_clamp_leaves_out_are_left_out(clamp, form, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 3, 9, 9)
    recipe = load_recipe("minmax_w8a8", ["activations.symmetric=true"])
    quantized = passes.quantize(capture(Clamped(clamp).eval(), x[:1]), recipe, TARGETS["generic"])
    found, said = derived(passes.legalize(calibrate(quantized, x))[0], form, tmp_path)
    both = [one for one in said.values() if one.name in found and one.digest]
    assert len(both) >= 3
    for one in both:
        assert found[one.name].digest == one.digest and (found[one.name].bound or 0) <= (one.bound or 0), one


def test_functions_that_call_functions_are_not_written_out(tmp_path):
    """27 of them that each call the next one twice would be 2**27 nodes; a build writes none that calls another."""
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("b", 1)]
    calls = [[onnx.helper.make_node(f"F{n + 1}", ["u"], ["w"], domain="b"),
              onnx.helper.make_node(f"F{n + 1}", ["w"], ["v"], domain="b")] for n in range(27)]
    bodies = [*calls, [onnx.helper.make_node("Relu", ["u"], ["v"])]]
    functions = [onnx.helper.make_function("b", f"F{n}", ["u"], ["v"], body, opsets) for n, body in enumerate(bodies)]
    graph = onnx.helper.make_graph([onnx.helper.make_node("F0", ["x"], ["y"], domain="b")], "g", [], [])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, functions=functions), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX model of Isobit's: functions that call functions"):
        rederive(tmp_path / "model.onnx")


def test_functions_that_are_called_too_often_are_not_written_out(tmp_path):
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("b", 1)]
    names = [f"v{number}" for number in range(301)]
    body = [onnx.helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    function = onnx.helper.make_function("b", "F", names[:1], names[-1:], body, opsets)
    calls = [onnx.helper.make_node("F", [a], [b], domain="b") for a, b in pairwise(names)]
    graph = onnx.helper.make_graph(calls, "g", [], [])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, functions=[function]), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="called too often"):
        rederive(tmp_path / "model.onnx")


@pytest.mark.parametrize(("domain", "name"), [("com.microsoft", "QuickGelu"), ("ai.onnx.ml", "Binarizer"), ("", "f")])
def test_functions_of_other_domains_are_not_read(domain, name, tmp_path):
    """Whatever they hold, a session may compute an operator of its own."""
    opsets = [onnx.helper.make_opsetid("", 17), *([onnx.helper.make_opsetid(domain, 1)] if domain else [])]
    body = [onnx.helper.make_node("Relu", ["u"], ["v"])]
    function = onnx.helper.make_function(domain, name, ["u"], ["v"], body, opsets)
    graph = onnx.helper.make_graph([onnx.helper.make_node(name, ["x"], ["y"], domain=domain)], "g", [], [])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, functions=[function]), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="functions that may bear the name of an operator"):
        rederive(tmp_path / "model.onnx")


def test_branches_that_meet_again_are_walked_once(tmp_path):
    """As in ShuffleNet: two ways through each of 60 joints are 2**60 ways back to the input."""
    nodes = []
    for number in range(60):
        x, y = f"v{number}", f"v{number + 1}"
        nodes += [onnx.helper.make_node(op, [x], [f"{op}{number}"]) for op in ("Identity", "Transpose")]
        nodes.append(onnx.helper.make_node("Concat", [f"Identity{number}", f"Transpose{number}"], [y], axis=0))
    grid = ["scale", "zero"]
    nodes += [onnx.helper.make_node("DequantizeLinear", ["v60", *grid], ["x"]),
              onnx.helper.make_node("GlobalAveragePool", ["x"], ["y"]),
              onnx.helper.make_node("QuantizeLinear", ["y", *grid], ["q"])]
    constants = [onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [1.0]),
                 onnx.helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [0])]
    inputs = [onnx.helper.make_tensor_value_info("v0", onnx.TensorProto.UINT8, None)]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [], constants)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    began = time.process_time()
    rederive(tmp_path / "model.onnx")
    assert time.process_time() - began < 5
