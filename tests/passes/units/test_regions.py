"""Blocks from structure alone: what a join closes, what it does not, and residual blocks without a sum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.passes import prepare
from isobit.passes.units.regions import JOINED, LARGEST, LIKE, gather, is_join, regions
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import is_constant
from tests.examples import flat, nets


class Call(nn.Module):
    """A function of convolutions of three channels, pointwise (c), depthwise (d) and over space (s)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.c = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(12))
        self.d = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, groups=3) for _ in range(4))
        self.s = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.function(self, x)


def operators(graph):
    return [node for node in graph.graph.nodes if node.op == "call_function" and not is_constant(node)]


def blocks(model):
    """(names of the layers, why) of each block of a network."""
    graph = prepare(nets.captured_of(model if isinstance(model, nn.Module) else Call(model))[0].graph)
    nodes, layers = operators(graph), Layers(Calls(graph))
    names = {layer.node: layers.name(layer) for layer in layers}
    return [([names[layer] for layer in region.layers], region.why) for region in regions(nodes, nodes)]


def chain(m, x, *numbers):
    for number in numbers:
        x = torch.relu(m.c[number](x))
    return x


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: chain(m, x, 0, 1), []),
        (lambda m, x: x + chain(m, x, 0, 1), [["c.0", "c.1"]]),
        (lambda m, x: (y := m.c[0](x)) + chain(m, y, 1, 2), [["c.1", "c.2"]]),
        (lambda m, x: torch.cat([m.c[0](x), m.c[1](x)], 1), [["c.0", "c.1"]]),
        (lambda m, x: (y := chain(m, x, 0)) * torch.sigmoid(m.c[2](chain(m, y.mean((2, 3), True), 1))),
         [["c.1", "c.2"]]),
        (lambda m, x: (y := m.c[0](x)) * torch.sigmoid(y), []),
        (lambda m, x: x + (y := chain(m, x, 0)) * torch.sigmoid(m.c[1](y.mean((2, 3), True))), [["c.0", "c.1"]]),
        # a value inside is read elsewhere: nothing is closed before the last sum
        (lambda m, x: chain(m, x + (y := chain(m, x, 0)), 1) + y, [["c.0", "c.1"]]),
        (lambda m, x: x + chain(m, x, *range(LARGEST)), [[f"c.{number}" for number in range(LARGEST)]]),
        (lambda m, x: x + chain(m, x, *range(LARGEST + 1)), []),
        # a long skip over two blocks
        (lambda m, x: x + chain(m, (y := chain(m, x, *range(7))) + chain(m, y, 7, 8), 9), [["c.7", "c.8"]]),
    ],
)
def test_what_a_join_closes(function, expected):
    assert blocks(function) == [(layers, JOINED) for layers in expected]


def bottleneck(m, x, first, depthwise, last):
    return m.c[last](torch.relu(m.d[depthwise](torch.relu(m.c[first](x)))))


def test_blocks_without_a_sum_are_known_by_those_with_one():
    def mobile(m, x):
        x = torch.relu(m.s(x))
        x = m.c[1](torch.relu(m.d[0](x)))
        x = bottleneck(m, x, 2, 1, 3)
        x = x + bottleneck(m, x, 4, 2, 5)
        x = bottleneck(m, x, 6, 3, 7)
        return torch.relu(m.c[8](x))

    assert blocks(mobile) == [
        (["c.4", "d.2", "c.5"], JOINED), (["d.0", "c.1"], LIKE), (["c.2", "d.1", "c.3"], LIKE),
        (["c.6", "d.3", "c.7"], LIKE),
    ]  # fmt: skip


def test_an_activation_at_the_end_is_another_block():
    assert blocks(lambda m, x: torch.relu(bottleneck(m, (y := m.c[0](x)) + bottleneck(m, y, 1, 0, 2), 3, 1, 4))) == [
        (["c.1", "d.0", "c.2"], JOINED)]


def test_a_run_that_something_else_reads_inside_is_no_block():
    def read_twice(m, x):
        y = (y := m.c[0](x)) + bottleneck(m, y, 1, 0, 2)
        inner = torch.relu(m.c[3](y))
        return torch.cat([m.c[4](torch.relu(m.d[1](inner))), m.c[5](m.c[6](inner).mean((2, 3), True)) * inner], 1)

    assert (["c.3", "d.1", "c.4"], LIKE) not in blocks(read_twice)


def test_without_a_block_with_a_sum_nothing_is_like_it():
    assert blocks(lambda m, x: bottleneck(m, bottleneck(m, x, 0, 0, 1), 2, 1, 3)) == []


def test_an_activation_is_no_join():
    graph = prepare(nets.captured_of(Call(lambda m, x: nn.functional.silu(m.c[0](x)) + x))[0].graph)
    assert [node.name for node in operators(graph) if is_join(node)] == ["add"]


def test_gathered_nodes_stand_together_and_numbers_stay():
    """The head beside the block is computed between its layers."""
    def beside(m, x):
        y = m.c[0](x)
        a = torch.relu(m.c[1](y))
        head = m.c[2](y)
        z = y + m.c[3](a)
        return torch.cat([head, z], 1)

    captured, x = nets.captured_of(Call(beside))
    graph = prepare(flat.nameless(captured.graph))
    before = nets.run(graph, x)
    nodes = operators(graph)
    region = next(iter(regions(nodes, nodes)))
    assert [len(layer.users) for layer in region.layers] == [1, 1, 1]
    gather(region)
    graph.graph.lint()
    graph.recompile()
    assert torch.equal(nets.run(graph, x), before)
    order = operators(graph)
    places = [order.index(node) for node in region.nodes]
    assert places == list(range(places[0], places[0] + len(places)))
