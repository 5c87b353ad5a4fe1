"""Places of quantizers: in execution order, weights apart from activations, shared ones once."""

import pytest

from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.graph.nodes import is_constant, quantizer_of
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.graph.quantized_tensors import bias_quantizer_at, quantized_tensors, quantizer_at, quantizers
from tests.examples.onnx_cases import frozen
from tests.examples.tiny import quantized_net


def test_every_place_is_found_once_and_in_order():
    graph = frozen("add")[0].graph
    found = quantized_tensors(graph)
    assert [tensor.node for tensor in found] == [n for n in graph.graph.nodes if quantizer_of(graph, n) is not None]
    assert len(found) == len(found.weights()) + len(found.activations()) and len(found.weights()) == 4
    assert all(is_constant(tensor.source) for tensor in found.weights())
    assert not any(is_constant(tensor.source) for tensor in found.activations())


def test_a_shared_quantizer_has_several_places_and_one_name():
    graph = frozen("cat")[0].graph
    found = quantized_tensors(graph)
    assert len(found.distinct()) < len(found) and quantizers(graph) == found.distinct().by_name()


def test_only_the_named_places_of_a_unit():
    graph = frozen("add")[0].graph
    first, *_ = quantized_tensors(graph).activations()
    assert list(quantized_tensors(graph).within({first.name, "no such node"})) == [first]


def test_quantizers_once_each_in_execution_order():
    quantized, _ = quantized_net(TARGETS["generic"])
    graph = quantized.graph
    found = quantizers(graph)
    assert list(found) == [n.name for n in graph.graph.nodes if quantizer_of(graph, n) is not None]
    first = next(n for n in graph.graph.nodes if n.op == "call_module" and n.name != "x_q")
    nodes = {n.name: n for n in graph.graph.nodes}
    nodes["relu_q"].target = nodes["x_q"].target
    assert "relu_q" not in quantizers(graph)
    assert quantizer_of(graph, first) is not None


def test_a_place_without_a_quantizer_is_named():
    graph = frozen("add")[0].graph
    place = quantized_tensors(graph).weights().distinct()
    assert all(quantizer_at(graph, tensor.node) is tensor.quantizer for tensor in place)
    for at in (quantizer_at, bias_quantizer_at):
        with pytest.raises(TypeError, match=r"node x is no quantizer"):
            at(graph, input_nodes(graph)[0])
