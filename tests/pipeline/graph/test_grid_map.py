"""Whose grid a value is on: through what moves codes, through concatenations whose parts agree, and no further."""

import dataclasses

import pytest
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.grid_map import GridMap, channel_axis
from isobit.pipeline.target import OpRule
from tests.examples import ends, nets
from tests.examples.onnx_cases import frozen

TARGET = TARGETS["generic"]


class Laid(nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.layer, self.layout = nn.Conv2d(3, 8, 1), layout

    def forward(self, x):
        return self.layout(self.layer(x))


def test_layout_operators_do_not_hide_a_grid():
    graph = frozen("pad_slice")[0].graph
    found = GridMap(TARGET)
    pad = nets.find_call(graph, "pad")
    assert found.quantizer_call(pad).name == "conv2d_q"
    assert found.quantizer(pad) is found.source(pad).quantizer


def test_a_layout_operator_that_the_target_runs_in_float_does():
    graph = frozen("pad_slice")[0].graph
    other = dataclasses.replace(TARGET, ops={**TARGET.ops, "pad": OpRule("float", "none")})
    pad = nets.find_call(graph, "pad")
    assert GridMap(other).quantizer(pad) is None and GridMap(other).source(pad) is pad
    assert GridMap(None).quantizer(pad) is not None


@pytest.mark.parametrize(("case", "on_grid"), [("shuffle", True), ("cat_signed", False)])
def test_a_concatenation_is_on_a_grid_where_all_of_its_parts_are_on_it(case, on_grid):
    graph = frozen(case)[0].graph
    joined, found = nets.find_call(graph, "cat"), GridMap(TARGET)
    parts = {found.quantizer(part) for part in joined.inputs}
    assert (len(parts) == 1) is on_grid and (found.quantizer(joined) is not None) is on_grid


def test_a_graph_without_quantizers_has_operators_for_sources():
    graph = prepare(nets.captured_net("dense")[0].graph)
    found = GridMap(TARGET)
    joined = nets.find_call(graph, "cat")
    assert found.source(joined) is joined and found.quantizer(joined) is None


def test_only_layout_before_the_output_lays_it_out():
    graph = prepare(ends.captured_end("detector")[0].graph)
    found, calls = GridMap(TARGET), Calls(graph)
    joined, view, gate = (calls[nets.find(graph, name)] for name in ("cat", "view", "sigmoid"))
    assert found.only_leaves(joined) and found.only_leaves(view)
    assert found.hands_on(joined) and not found.hands_on(gate)
    read = prepare(nets.captured_net("dense")[0].graph)
    joined, found = nets.find_call(read, "cat"), GridMap(TARGET)
    assert found.is_read(joined) and not found.only_leaves(joined) and not found.hands_on(joined)


def test_consumers_are_found_through_what_hands_values_on():
    graph = frozen("pad_slice")[0].graph
    (quantizer,) = nets.find_call(graph, "conv2d").readers
    (reader,) = GridMap(TARGET).consumers(quantizer)
    assert reader.node is nets.find(graph, "conv2d", 1)


def test_a_tensor_read_twice_is_two_inputs():
    graph = frozen("add_itself")[0].graph
    added = nets.find_call(graph, "add")
    assert len(added.inputs) == 2 and added.inputs[0] is added.inputs[1] and len(added.sources) == 1


@pytest.mark.parametrize(("layout", "axis"), [
    (lambda y: y.permute(0, 2, 3, 1).reshape(-1, 18, 4), 2),  # two anchors a place
    (lambda y: y.view(-1, 2, 4, 3, 3).permute(0, 1, 3, 4, 2), 4),
    (lambda y: y.view(-1, 2, 4, 3, 3).permute(0, 3, 4, 1, 2).reshape(-1, 18, 4), 2),
    (lambda y: y.flatten(2), 1),
    (lambda y: y.flatten(2).transpose(1, 2), 2),
    (lambda y: y.flatten(2).view(-1, 2, 4, 9), 2),
    (lambda y: y.flatten(1), 1),
    (lambda y: y.view(-1, 4, 2, 3, 3).transpose(1, 2).reshape(-1, 8, 3, 3), 1),  # a shuffle
    (lambda y: y.view(-1, 24, 3), None),
])
def test_channels_are_followed_through_layouts(layout, axis):
    graph = prepare(nets.captured_of(Laid(layout), 3, 3, 3)[0].graph)
    assert channel_axis(Calls(graph).outputs[0]) == axis
