"""What a reader finds at a node, and that a view of a graph that was edited afterwards answers no more."""

from __future__ import annotations

import pytest
import torch

from isobit.passes import prepare
from isobit.pipeline.graph.annotation import keep_float
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.nodes import bound_args, is_constant, op_name, set_argument, tensor_dtype, tensor_shape
from tests.examples import nets
from tests.examples.onnx_cases import frozen

aten = torch.ops.aten


@pytest.mark.parametrize("case", ["depthwise", "cat_signed", "squeeze_excite", "add_itself"])
def test_a_call_says_what_its_node_does(case):
    graph = frozen(case)[0].graph
    calls = Calls(graph)
    assert [call.node for call in calls] == [*graph.graph.nodes]
    assert [call.place for call in calls] == [*range(len(calls))]
    for call, node in zip(calls, graph.graph.nodes, strict=True):
        assert (call.op, call.constant, call.shape, call.dtype) == (
            op_name(node), is_constant(node), tensor_shape(node), tensor_dtype(node))
        assert [source.node for source in call.sources] == node.all_input_nodes
        assert [reader.node for reader in call.readers] == [*node.users]
        assert not call.op or call.args.keys() == bound_args(node).keys()
    assert [*reversed(calls)] == [*calls][::-1]


def test_a_layer_names_its_parameters_and_their_quantizers():
    layer = nets.find_call(frozen("depthwise")[0].graph, "conv2d")
    weight, bias = layer.args["weight"], layer.args["bias"]
    assert layer.inputs == (layer.args["input"],) and layer.sources == (layer.args["input"], weight, bias)
    assert weight.constant and weight.quantizer is not None and weight.bias_quantizer is None
    assert bias.constant and bias.quantizer is None and bias.bias_quantizer is not None
    assert weight.sources[0].tensor.shape == weight.shape and layer.args["stride"] == [1, 1]


def test_what_annotate_decides_is_seen_at_once():
    call = nets.find_call(prepare(nets.captured_net("residual")[0].graph), "conv2d")
    keep_float(call.node, "because")
    assert call.kept_float == "because"


def added(graph):
    with graph.graph.inserting_after(nets.find(graph, "conv2d")):
        graph.graph.call_function(aten.relu.default, (nets.find(graph, "conv2d"),))


def changed(graph):
    set_argument(nets.find(graph, "conv2d"), "padding", [0, 0])


def renamed(graph):
    nets.find(graph, "relu").target = aten.tanh.default


def moved(graph):
    """The order of two convolutions that do not read each other."""
    first, *_, last = (node for node in graph.graph.nodes if node.op == "get_attr")
    first.prepend(last)


@pytest.mark.parametrize("edit", [added, changed, renamed, moved])
def test_a_view_of_an_edited_graph_is_refused(edit):
    graph = prepare(nets.captured_net("residual")[0].graph)
    calls = Calls(graph)
    edit(graph)
    with pytest.raises(RuntimeError, match="after the"):
        list(calls)
    with pytest.raises(RuntimeError, match="after the"):
        list(reversed(calls))
    assert len([*Calls(graph)]) == len(graph.graph.nodes)


def test_a_node_of_another_graph_is_refused():
    graph, other = (prepare(nets.captured_net("residual")[0].graph) for _ in range(2))
    with pytest.raises(RuntimeError, match="is new, or was edited after"):
        Calls(graph)[nets.find(other, "conv2d")]
