"""Every integer layer's bias reads the quantizers of its input and weight, found through layout operators."""

from __future__ import annotations

import pytest
import torch

from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.passes import annotate, insert_quantizers, prepare, share_grids, tie_biases
from isobit.pipeline.graph.nodes import bias_quantizer_of, bound_args, module_path, op_name, quantizer_of, tensor_shape
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets

TARGET = TARGETS["generic"]


def placed(name, target=TARGET):
    captured, x = nets.captured_net(name)
    graph = prepare(captured.graph)
    annotate(graph, load_recipe("qdrop_w4a4"), target)
    insert_quantizers(graph)
    share_grids(graph, target)
    return graph, x


def layers(graph):
    return [n for n in graph.graph.nodes if op_name(n) in ("conv2d", "linear") and bound_args(n)["bias"] is not None]


@pytest.mark.parametrize("name", nets.NETS)
def test_every_layer_with_a_bias_is_tied_and_numbers_stay(name):
    graph, x = placed(name)
    before = nets.run(graph, x)
    assert tie_biases(graph, TARGET)
    assert torch.equal(nets.run(graph, x), before)
    for node in layers(graph):
        bias = bias_quantizer_of(graph, bound_args(node)["bias"])
        assert bias.phase is Phase.OFF
        assert bias.parents[1] is quantizer_of(graph, bound_args(node)["weight"])
    after = nets.snapshot(graph)
    assert not tie_biases(graph, TARGET)
    assert nets.snapshot(graph) == after


def test_the_input_grid_is_found_through_layout_and_shared_concatenation():
    graph, _ = placed("shuffle")
    tie_biases(graph, TARGET)
    conv = nets.find(graph, "conv2d", 4)  # after slice(view(permute(view(cat))))
    source = bias_quantizer_of(graph, bound_args(conv)["bias"]).parents[0]
    before = nets.find(graph, "cat").all_input_nodes
    assert op_name(conv.args[0]) == "slice"
    found = {id(quantizer_of(graph, n)) for n in [*before, *nets.find(graph, "cat").users]}
    assert id(source) in found


def test_inserted_nodes_carry_module_unit_and_shape():
    graph, _ = placed("residual")
    tie_biases(graph, TARGET)
    for node in layers(graph):
        bias = bound_args(node)["bias"]
        assert (bias.name, module_path(bias), bias.meta["unit"]) == (
            f"{node.name}_b", module_path(node), node.meta["unit"],
        )  # fmt: skip
        assert tensor_shape(bias) == (tensor_shape(node)[1],)


def test_a_target_with_float_biases_has_none():
    graph, _ = placed("residual", PAPER)
    assert not tie_biases(graph, TARGET)
