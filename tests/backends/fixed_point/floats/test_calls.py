"""One float operator as a graph of its own: what it reads, its parameters, its shapes for one sample."""

from __future__ import annotations

import torch
from torch import nn

from isobit.backends.fixed_point.floats.calls import Floats
from isobit.backends.fixed_point.rules import integer_target
from isobit.passes import prepare
from isobit.pipeline.graph.nodes import nodes_by_name
from tests.examples import nets

TARGET = integer_target("test", "any", float_operators="anywhere")


class Windows(nn.Module):
    """Windows folded into the batch, their largest values normalised, and unfolded."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        y = self.layer(x).reshape(-1, 3, 4)
        best, _ = torch.erf(y).topk(2, 1)
        return self.norm(torch.cat([best, y[:, :1]], 1)).reshape(x.shape[0], 6, 4)


def floats():
    graph = prepare(nets.captured_of(Windows().eval(), 6, 4)[0].graph)
    return graph, nodes_by_name(graph), Floats(graph, TARGET)


def test_shapes_are_those_of_one_sample():
    _, nodes, found = floats()
    assert found.tensors == [] and found.add(nodes["erf"]) == 0
    assert (found.tensors[0].shape, found.tensors[0].kind) == ((2, 3, 4), "float32")
    assert found.numbers[nodes["erf"]] == 0


def test_parameters_follow_what_is_read_and_the_graph_computes_the_operator():
    graph, nodes, found = floats()
    norm = nodes["layer_norm"]
    sources, step = found.compute(norm, trial=False)
    assert sources == [norm.args[0]] and [p.shape for p in step.parameters] == [(4,), (4,)]
    x = torch.randn(2, 3, 4)
    got = torch.fx.GraphModule({}, step.call.graph)(x, *map(torch.from_numpy, step.parameters))
    assert torch.equal(got, nn.functional.layer_norm(x, [4], graph.norm.weight, graph.norm.bias))
    assert found.compute(norm, trial=True)[1].parameters == ()


def test_an_entry_of_several_results_is_computed_with_what_gives_them():
    _, nodes, found = floats()
    entry = nodes["getitem"]
    assert not found.is_tensor(entry.args[0]) and found.is_tensor(entry)
    sources, step = found.compute(entry, trial=True)
    assert sources == [nodes["erf"]]
    x = torch.randn(2, 3, 4)
    assert torch.equal(torch.fx.GraphModule({}, step.call.graph)(x), x.topk(2, 1)[0])


def test_where_an_operator_may_be_in_float():
    graph, nodes, found = floats()
    after = Floats(graph, integer_target("test", "any", float_operators="after_layers"))
    never = Floats(graph, integer_target("test", "any"))
    assert found.allows(nodes["linear"]) and not after.allows(nodes["linear"])
    assert after.allows(nodes["erf"]) and not never.allows(nodes["erf"])
