"""A file's nodes as modules: parameters, sharing, several ports, capture, and refusals that name the node."""

from __future__ import annotations

import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import InputError
from tests.examples import nets
from tests.examples.onnx_files import exported, f32, network, write


def test_an_export_has_the_layers_of_its_network(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.layer1(self.stem(x)).mean((2, 3)))

    net, x = Net().eval(), torch.randn(3, 3, 6, 6)
    nodes = [
        helper.make_node("Conv", ["x", "a", "b"], ["1"], name="/stem/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["1", "c", "d"], ["2"], name="/layer1/layer1.0/Conv"),
        helper.make_node("Relu", ["2"], ["3"], name="/layer1/layer1.1/Relu"),
        helper.make_node("ReduceMean", ["3"], ["4"], name="/ReduceMean", axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["4", "e", "f"], ["y"], name="/head/Gemm", transB=1),
    ]
    weights = dict(zip("abcdef", (each.detach().numpy() for each in net.parameters()), strict=True))
    built, _ = network(write(tmp_path / "net.onnx", nodes, {"x": [1, 3, 6, 6]}, ["y"], weights))
    with torch.no_grad():
        assert torch.allclose(built(x), net(x), atol=1e-6)
    assert {*dict(built.named_parameters())} == {*dict(net.named_parameters())}
    graphs = [capture(each, x[:1]).graph for each in (net, built)]
    names = [nets.layer_names(graph) for graph in graphs]
    assert names[0] == names[1] == ["stem", "layer1.0", "head"]
    targets = [[str(n.target) for n in graph.graph.nodes if n.op == "call_function"] for graph in graphs]
    assert targets[0] == targets[1]


def test_several_inputs_and_outputs_and_a_shared_weight(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["p"], name="one"),
        helper.make_node("MatMul", ["b", "w"], ["q"], name="two"),
        helper.make_node("Add", ["p", "q"], ["r"]),
    ]
    built, origin = network(write(tmp_path / "two.onnx", nodes, {"a": ["N", 3], "b": ["N", 3]}, ["r", "p"],
                                  {"w": f32(3, 2)}))
    samples = origin.random_samples(2)
    assert max(origin.differences(built, samples).values()) < 1e-6
    assert len(list(built.parameters())) == 1
    graph = exported(built, samples).graph
    assert [n.name for n in graph.nodes if n.op == "placeholder" and "input" in n.name] == ["input_0", "input_1"]


def test_a_constant_of_a_computed_shape_is_captured_as_the_file_has_it(tmp_path):
    """What `expand` exports to, where nobody folded it."""
    value = numpy_helper.from_array(f32(1) * 0 + 2.5)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["c"], name="const", value=value),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    built, origin = network(write(tmp_path / "of_shape.onnx", nodes, {"x": ["N", 3]}, ["y"]))
    x = torch.randn(2, 3)
    assert max(origin.differences(built, origin.random_samples(2)).values()) < 1e-6
    assert torch.allclose(capture(built, x).graph(x), 2.5 * x)


def test_refusals_name_the_node(tmp_path):
    node = helper.make_node("Bernoulli", ["x"], ["y"], name="dice")
    with pytest.raises(InputError, match=r"Bernoulli is not known[\s\S]*node 'dice'"):
        network(write(tmp_path / "a.onnx", [node], {"x": ["N", 3]}, ["y"]))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    with pytest.raises(InputError, match=r"cannot be computed on[\s\S]*node 'product'"):
        network(write(tmp_path / "b.onnx", [node], {"x": ["N", 3]}, ["y"], {"w": f32(5, 2)}))
    node = helper.make_node("ConstantOfShape", ["s"], ["y"], name="zeros")
    with pytest.raises(InputError, match="does not depend on the input|makes a tensor of shape"):
        import numpy as np

        network(write(tmp_path / "c.onnx", [node], {"x": ["N", 3]}, ["y"], {"s": np.array([1 << 20, 1 << 20])}))


@pytest.mark.parametrize(("op", "attributes"), [
    ("Gemm", {"alpha": [1, 2, 3]}), ("Gemm", {"alpha": "x"}), ("Gemm", {"beta": ["a"]}), ("Conv", {"group": "x"}),
    ("ConvTranspose", {"group": -1}), ("BatchNormalization", {"epsilon": [1.0, 2.0]}),
])
def test_attributes_of_any_type_name_their_node(tmp_path, op, attributes):
    shapes = {"Gemm": [(4, 2), (2,)], "BatchNormalization": [(4,)] * 4}.get(op, [(4, 4, 1, 1), (4,)])
    given = {f"c{place}": f32(*shape) for place, shape in enumerate(shapes)}
    node = helper.make_node(op, ["x", *given], ["y"], name="wrong", **attributes)
    with pytest.raises(InputError, match="wrong"):
        network(write(tmp_path / "a.onnx", [node], {"x": ["N", 4] if op == "Gemm" else ["N", 4, 5, 5]}, ["y"], given))
