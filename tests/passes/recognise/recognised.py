"""A function in parts, before and after its recognition."""

from __future__ import annotations

import torch
from torch import nn

from isobit.passes.canonicalize import canonicalize
from isobit.passes.recognise import recognise
from tests.examples import nets


class Parts(nn.Module):
    """A function of the input with a few constants: `g` and `b` [4], `w` [6, 5], `one` of no axis."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(3)
        for name, shape in (("g", (4,)), ("b", (4,)), ("w", (6, 5)), ("v", (5,))):
            self.register_buffer(name, torch.rand(shape, generator=generator) + 0.5)
        for name, value in (("zero", 0.0), ("one", 1.0), ("two", 2.0), ("half_", 0.5), ("three", 3.0), ("six", 6.0)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x):
        return self.function(self, x)


def recognised(function, *shape, scale=3.0):
    """The graph of a function after its recognition, having checked numbers and a second run."""
    captured, x = nets.captured_of(Parts(function), *(shape or (4, 6, 5)))
    graph, x = captured.graph, scale * x
    canonicalize(graph)
    before = nets.run(graph, x)
    recognise(graph)
    torch.testing.assert_close(nets.run(graph, x), before, rtol=2e-5, atol=2e-5)
    after = nets.snapshot(graph)
    assert not recognise(graph)
    assert nets.snapshot(graph) == after
    return graph


def names(function, *shape):
    """Operators of a function after its recognition."""
    return nets.operators(recognised(function, *shape))
