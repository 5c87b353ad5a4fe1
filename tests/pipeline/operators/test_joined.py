"""Runs that are one function of a tensor: found where nothing else reads them, with the same values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isobit.passes import prepare
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.operators.joined import composed, joined_after
from tests.examples import nets
from tests.passes.plans import Call

GATED = lambda m, x: m.b((y := m.a(x)) * torch.sigmoid(torch.tanh(y)))  # noqa: E731


def graph_of(function):
    return prepare(nets.captured_of(Call(function), 3, 6, 6)[0].graph)


def first(graph):
    return nets.find_call(graph, "tanh")


def test_a_run_ends_with_what_is_read_outside():
    graph = graph_of(GATED)
    assert [call.op for call in joined_after(first(graph))] == ["sigmoid", "mul"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b((y := m.a(x)) * torch.sigmoid(z := torch.tanh(y))) + m.c(z),  # the first has another reader
        lambda m, x: m.b(m.c(x) * torch.tanh(m.a(x))),  # another tensor
    ],
)
def test_what_others_read_or_give_is_not_joined(function):
    found = [call for call in Calls(graph_of(function)) if call.op == "tanh"]
    assert found and all("mul" not in [each.op for each in joined_after(call)] for call in found)


def test_the_composed_function_is_the_networks():
    graph = graph_of(GATED)
    x = np.linspace(-4, 4, 33)
    anchor = first(graph)
    values = composed(graph, [call.node for call in (anchor, *joined_after(anchor))], x)
    assert np.allclose(values, x / (1 + np.exp(-np.tanh(x))))
