"""Concatenations: producers that feed nothing else share one quantizer, all others keep their own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.passes import annotate, insert_quantizers, prepare
from isobit.passes.share_grids import share_grids
from isobit.pipeline.graph.nodes import quantizer_of
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.target import OpRule
from tests.examples import nets, tiny

TARGET = TARGETS["generic"]


class Joined(nn.Module):
    """Concatenates what `function` makes of two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.c(torch.cat(self.function(self.a(x), self.b(x)), 1)).relu().mean((2, 3)))


def inserted(function, recipe="qdrop_w8a8"):
    captured, x = nets.captured_of(Joined(function), 3, 4, 4)
    graph = prepare(captured.graph)
    annotate(graph, load_recipe(recipe), TARGET)
    insert_quantizers(graph)
    return graph, x


def around(graph):
    """Targets of the quantizers before the concatenation, and the nodes that read it."""
    cat = nets.find(graph, "cat")
    return [str(n.target) for n in cat.all_input_nodes], list(cat.users)


def test_private_producers_share_and_the_concatenation_becomes_layout():
    graph, x = inserted(lambda a, b: [a.relu(), b.relu()])
    before = nets.run(graph, x)
    assert share_grids(graph, TARGET)
    targets, users = around(graph)
    assert len(set(targets)) == 1 and users[0].op == "call_function"
    assert torch.equal(nets.run(graph, x), before)
    after = nets.snapshot(graph)
    assert not share_grids(graph, TARGET)
    assert nets.snapshot(graph) == after


def test_a_producer_that_feeds_something_else_keeps_its_own_grid():
    graph, _ = inserted(lambda a, b: [(r := a.relu()), (r + b).relu()])
    assert share_grids(graph, TARGET)
    targets, (user,) = around(graph)
    assert quantizer_of(graph, user) is not None
    assert [target == user.target for target in targets] == [False, True]
    after = nets.snapshot(graph)
    assert not share_grids(graph, TARGET)
    assert nets.snapshot(graph) == after


def test_other_specs_are_not_shared():
    graph, _ = inserted(lambda a, b: [a.relu(), b])
    share_grids(graph, TARGET)
    targets, (user,) = around(graph)
    assert [target == user.target for target in targets] == [False, True]


def test_a_prescribed_grid_is_not_given_up():
    graph, _ = inserted(lambda a, b: [a.sigmoid(), b.relu()])
    share_grids(graph, TARGET)
    targets, (user,) = around(graph)
    assert [target == user.target for target in targets] == [False, True]
    assert quantizer_of(graph, nets.find(graph, "cat").all_input_nodes[0]).fixed


@pytest.mark.parametrize("output", ["own", "as_input"])
def test_only_where_the_target_says_so(output):
    graph, _ = inserted(lambda a, b: [a.relu(), b.relu()])
    target = dataclasses.replace(TARGET, ops={**TARGET.ops, "cat": OpRule("quantized", output)})
    before = nets.snapshot(graph)
    assert not share_grids(graph, target)
    assert nets.snapshot(graph) == before


def test_nested_levels_are_never_shared():
    captured, _ = nets.captured_of(Joined(lambda a, b: (a.relu(), b.relu())), 3, 4, 4)
    graph = prepare(captured.graph)
    annotate(graph, tiny.multibit_recipe(), TARGET)
    insert_quantizers(graph)
    joined = nets.find(graph, "cat")
    assert {quantizer_of(graph, node).spec.grid.kind for node in (*joined.all_input_nodes, *joined.users)} == {"nested"}
    assert not share_grids(graph, TARGET)
    assert len({node.target for node in (*joined.all_input_nodes, *joined.users)}) == 3
