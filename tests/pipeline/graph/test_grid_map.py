"""Whose grid a value is on: through what moves codes, through concatenations whose parts agree, and no further."""

import dataclasses

import pytest
import torch

from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare
from isobit.pipeline.graph.grid_map import GridMap, data_inputs
from isobit.pipeline.graph.nodes import quantizer_of
from isobit.pipeline.target import OpRule
from tests.examples import ends, nets
from tests.examples.onnx_cases import frozen

TARGET = TARGETS["generic"]


def test_layout_operators_do_not_hide_a_grid():
    graph = frozen("pad_slice")[0].graph
    found = GridMap(graph, TARGET)
    pad = nets.find(graph, "pad")
    assert found.quantizer_node(pad).name == "conv2d_q"
    assert found.quantizer(pad) is quantizer_of(graph, found.source(pad))


def test_a_layout_operator_that_the_target_runs_in_float_does():
    graph = frozen("pad_slice")[0].graph
    other = dataclasses.replace(TARGET, ops={**TARGET.ops, "pad": OpRule("float", "none")})
    pad = nets.find(graph, "pad")
    assert GridMap(graph, other).quantizer(pad) is None and GridMap(graph, other).source(pad) is pad
    assert GridMap(graph, None).quantizer(pad) is not None


@pytest.mark.parametrize(("case", "on_grid"), [("shuffle", True), ("cat_signed", False)])
def test_a_concatenation_is_on_a_grid_where_all_of_its_parts_are_on_it(case, on_grid):
    graph = frozen(case)[0].graph
    joined, found = nets.find(graph, "cat"), GridMap(graph, TARGET)
    parts = {found.quantizer(part) for part in data_inputs(joined)}
    assert (len(parts) == 1) is on_grid and (found.quantizer(joined) is not None) is on_grid


def test_a_graph_without_quantizers_has_operators_for_sources():
    graph = prepare(nets.captured_net("dense")[0].graph)
    found = GridMap(graph, TARGET)
    joined = nets.find(graph, "cat")
    assert found.source(joined) is joined and found.quantizer(joined) is None


def test_only_layout_before_the_output_lays_it_out():
    graph = prepare(ends.captured_end("detector")[0].graph)
    found = GridMap(graph, TARGET)
    assert found.only_leaves(nets.find(graph, "cat")) and found.only_leaves(nets.find(graph, "view"))
    assert found.hands_on(nets.find(graph, "cat")) and not found.hands_on(nets.find(graph, "sigmoid"))
    read = prepare(nets.captured_net("dense")[0].graph)
    joined, found = nets.find(read, "cat"), GridMap(read, TARGET)
    assert found.is_read(joined) and not found.only_leaves(joined) and not found.hands_on(joined)


def test_consumers_are_found_through_what_hands_values_on():
    graph = frozen("pad_slice")[0].graph
    conv = nets.find(graph, "conv2d")
    (quantizer,) = conv.users
    (reader,) = GridMap(graph, TARGET).consumers(quantizer)
    assert reader is nets.find(graph, "conv2d", 1)


def test_a_tensor_read_twice_is_two_inputs():
    graph = frozen("add_itself")[0].graph
    added = data_inputs(nets.find(graph, "add"))
    assert len(added) == 2 and added[0] is added[1] and not torch.is_tensor(added[0])
