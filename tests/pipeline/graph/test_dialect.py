"""Which nodes may stand in a graph at which stage, and that a breach is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.passes import PREPARE, canonicalize, prepare
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.dialect import CANONICAL, FORBIDDEN, WHITELIST, verify
from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of
from isobit.pipeline.quant.quantizer import Phase
from tests.examples import nets, tiny

TARGET = TARGETS["generic"]


@pytest.fixture(scope="module")
def reference():
    return tiny.frozen_reference(TARGET)[0]


def breach(graph, stage):
    with pytest.raises(CaptureError) as error:
        verify(graph, stage)
    assert f"'{stage}'" in error.value.what and error.value.where.startswith("node ")
    return error.value.what


def test_stages_of_the_chain_are_legal(reference):
    verify(reference.quantized.teacher, "prepared")
    verify(reference.quantized.graph, "quantized")
    verify(reference.graph, "frozen")


def test_names_do_not_contradict():
    assert not CANONICAL & FORBIDDEN


def test_what_prepare_removes_is_not_legal_after_it():
    graph = nets.captured_net("residual")[0].graph
    assert "in-place" in breach(nets.captured_net("in_place")[0].graph, "prepared")
    canonicalize(graph)
    assert "batch_norm" in breach(graph, "prepared")
    for graph_pass in PREPARE:
        graph_pass(graph)
    verify(graph, "prepared")


def test_modules_come_with_the_quantizers(reference):
    assert "module Quantizer" in breach(reference.quantized.graph, "prepared")
    graph = prepare(nets.captured_net("residual")[0].graph)
    graph.add_submodule("stray", nn.ReLU())
    with graph.graph.inserting_after(nets.find(graph, "conv2d")):
        graph.graph.call_module("stray", (nets.find(graph, "conv2d"),))
    assert "module ReLU" in breach(graph, "quantized")


def spoil(reference, change, constant=False):
    graph = copy.deepcopy(reference.graph)
    nodes = [n for n in graph.graph.nodes if quantizer_of(graph, n) is not None and is_constant(n) == constant]
    change(quantizer_of(graph, nodes[0]))
    return breach(graph, "frozen")


def test_nothing_unfinished_is_legal_when_frozen(reference):
    assert "is on" in spoil(reference, lambda q: setattr(q, "phase", Phase.ON))
    assert "without numbers" in spoil(reference, lambda q: setattr(q, "scale", None))
    assert "training part" in spoil(reference, lambda q: q.attach(lambda x: x))


def test_frozen_weights_have_codes_inside_their_grid(reference):
    assert "without codes" in spoil(reference, lambda q: setattr(q, "codes", None), constant=True)
    assert "leave the grid" in spoil(reference, lambda q: setattr(q, "codes", q.codes + 100), constant=True)


def test_frozen_biases_have_codes(reference):
    graph = copy.deepcopy(reference.graph)
    bias = next(bias_quantizer_of(graph, n) for n in graph.graph.nodes if bias_quantizer_of(graph, n) is not None)
    bias.codes = None
    assert "bias without codes" in breach(graph, "frozen")


def test_an_unknown_stage_is_a_defect():
    with pytest.raises(ValueError, match="stage"):
        verify(nets.captured_net("perceptron")[0].graph, "finished")


def test_unknown_operators_stay(reference):
    verify(prepare(nets.captured_of(nn.GELU(), 4)[0].graph), "prepared")
    assert torch.is_tensor(reference.evaluate(torch.zeros(1, 3, 8, 8)))


def test_the_whitelist_names_every_canonical_operator_and_when_quantizers_may_stand():
    text = "".join(row.what for row in WHITELIST)
    assert all(f"`{name}`" in text for name in CANONICAL) and not any(f"`{name}`" in text for name in FORBIDDEN)
    assert [set(row.stages) for row in WHITELIST if row.what.startswith("quantizers")] == [{"quantized"}, {"frozen"}]


def test_what_no_row_names_is_refused():
    graph = prepare(nets.captured_net("perceptron")[0].graph)
    source = next(node for node in graph.graph.nodes if node.op == "placeholder")
    with graph.graph.inserting_after(source):
        graph.graph.call_method("relu", (source,))
    assert "call_method relu" in breach(graph, "prepared")


@pytest.mark.parametrize(("target", "args", "legal"), [
    (torch.ops.aten.relu_.default, (), False),
    (torch.ops.aten.bernoulli.default, (), False),
    (torch.ops.aten.dropout.default, (0.5, False), False),  # PREPARE removes it
    (torch.ops.aten.rrelu.default, (0.1, 0.3, False), True),
    (torch.ops.aten.rrelu.default, (0.1, 0.3, True), False),
    (torch.ops.aten._softmax.default, (1, False), True),
    (torch.ops.aten.instance_norm.default, (None, None, None, None, True, 0.1, 1e-5, False), True),
])
def test_a_float_operator_writes_nothing_and_draws_nothing_by_its_schema(target, args, legal):
    graph = prepare(nets.captured_net("perceptron")[0].graph)
    source = next(node for node in graph.graph.nodes if node.op == "placeholder")
    with graph.graph.inserting_after(source):
        graph.graph.call_function(target, (source, *args))
    if legal:
        verify(graph, "prepared")
    else:
        breach(graph, "prepared")
