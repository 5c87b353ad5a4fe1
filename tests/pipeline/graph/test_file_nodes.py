"""Where a user finds a node of a network that came from a file."""

from __future__ import annotations

from onnx import helper
from torch import nn

from isobit.backends.placement import placement_table
from isobit.backends.reference import TARGET
from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.file_nodes import FileNode, note_file_nodes
from isobit.pipeline.graph.nodes import op_name, source_line
from tests.examples import nets
from tests.examples.onnx_files import f32, network, write
from tests.examples.tiny import quantized_net


def hard_swish_file(path):
    """A convolution, a batch norm and a hard-swish in parts; one node has no name, one has a control character."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["1"], name="/stem/stem.0/Conv"),
        helper.make_node("BatchNormalization", ["1", "s", "b", "m", "v"], ["2"], name="/stem/stem.1/Norm"),
        helper.make_node("Sigmoid", ["2"], ["3"]),
        helper.make_node("Conv", ["3", "u"], ["y"], name="head\x1b[31m"),
    ]
    vectors = {name: abs(f32(4)) for name in "sbmv"}
    return write(path, nodes, {"x": ["N", 3, 6, 6]}, ["y"], {"w": f32(4, 3, 1, 1), "u": f32(2, 4, 1, 1), **vectors})


def places(graph):
    return {op_name(node): source_line(node) for node in graph.graph.nodes if node.op == "call_function"}


def test_nodes_of_a_file_are_named_in_graphs_and_in_the_placement_table(tmp_path):
    model, origin = network(hard_swish_file(tmp_path / "net.onnx"))
    x = origin.random_samples(1)[0]
    graph = prepare(capture(model, x).graph)
    assert places(graph) == {"conv2d": "Conv node 'head?[31m'", "sigmoid": "Sigmoid node '3'"}
    quantized, _ = quantized_net(TARGET, "minmax_w8a8", model, x)
    rows = placement_table(quantized.graph, TARGET)
    assert [row.source for row in rows] == [
        "Conv node '/stem/stem.0/Conv'", "Sigmoid node '3'", "Conv node 'head?[31m'"]  # fmt: skip


def test_networks_of_python_name_the_user_s_lines():
    graph = prepare(nets.captured_net("mobile")[0].graph)
    assert all(line.startswith("nets.py:") for line in places(graph).values())


def test_a_network_of_torch_s_modules_alone_has_no_line():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.Linear(64, 2)).eval()
    captured, _ = nets.captured_of(model, 3, 6, 6)
    assert set(places(captured.graph).values()) == {""}


def test_only_file_nodes_are_noted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.own = FileNode("Relu node 'a'"), nn.ReLU()
            self.read.forward = self.own.forward

        def forward(self, x):
            return self.own(self.read(x))

    captured, _ = nets.captured_of(Net())
    note_file_nodes(captured.graph, nn.Identity())
    assert next(source_line(n) for n in captured.graph.graph.nodes if op_name(n) == "relu") == "Relu node 'a'"
