"""What is made of the batch's size asks what its reader reads."""

import pytest
import torch
from torch import fx, nn

from isobit.passes import prepare
from isobit.passes.forms.sizes_at_hand import sizes_at_hand
from isobit.pipeline.graph.nodes import op_name
from tests.examples import nets
from tests.passes.plans import Call

aten = torch.ops.aten


class Recurrent(nn.Module):
    def __init__(self, kind, batch_first):
        super().__init__()
        self.first, self.cell = nn.Linear(6, 6), kind(6, 5, batch_first=batch_first)

    def forward(self, x):
        y = self.first(x.flatten(1, 2))
        return self.cell(y)[0] if self.cell.batch_first else self.cell(y.transpose(0, 1))[0].transpose(0, 1)


def sizes(graph):
    """Which values are asked for their size, and on which axis."""
    return [(op_name(node.args[0]), node.args[1]) for node in graph.graph.nodes if op_name(node) == "sym_size"]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_first_state_of_a_recurrence_has_the_size_of_its_sequence(kind, batch_first):
    stage, x = nets.captured_of(Recurrent(kind, batch_first).eval(), 3, 4, 6)
    before, graph = nets.run(stage.graph, x), prepare(stage.graph)
    found = sizes(graph)
    assert found and all(axis == (0 if batch_first else 1) and name for name, axis in found)
    assert torch.equal(nets.run(graph, x), before) and not sizes_at_hand(graph)
    assert nets.run(graph, x[:1]).shape[0] == 1


@pytest.mark.parametrize("function", [
    lambda m, x: torch.cat([m.weight[:, :1].reshape(1, 1, 4).expand(x.shape[0], 1, 4), x.relu().flatten(2)], 1),
    lambda m, x: x.relu().flatten(1) + torch.zeros(x.shape[0], 1),
])
def test_what_is_joined_has_the_size_of_what_it_is_joined_with(function):
    net = Call(function).eval()
    net.weight = nn.Parameter(torch.randn(4, 1))
    stage, x = nets.captured_of(net, 3, 2, 2)
    before, graph = nets.run(stage.graph, x), prepare(stage.graph)
    assert sizes(graph) == [("view", 0)] and torch.equal(nets.run(graph, x), before)


def test_a_size_along_which_something_is_joined_says_nothing():
    graph = fx.Graph()
    x = graph.placeholder("x")
    zeros = graph.call_function(aten.zeros.default, ([graph.call_function(aten.sym_size.int, (x, 0)), 4],))
    graph.output(graph.call_function(aten.cat.default, ([zeros, graph.call_function(aten.relu.default, (x,))], 0)))
    for node in graph.nodes:
        node.meta["shape"] = () if op_name(node) == "sym_size" else (None, 4)
    assert not sizes_at_hand(fx.GraphModule({}, graph))
