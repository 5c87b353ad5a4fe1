"""Permutes cancel, also through elementwise operators; where none goes, none moves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from isobit.pipeline.graph.nodes import tensor_shape
from tests.examples import nets
from tests.passes.recognise.recognised import names, recognised


def last(x):
    return x.permute(0, 2, 3, 1)


def first(x):
    return x.permute(0, 3, 1, 2)


def several(m, x):
    a, b = last(x), last(x * 2)
    y = F.relu(a + m.b) * b
    return first(y) + first(torch.sigmoid(y - 1))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda m, x: first(last(x)).neg(), ["neg"]),
        (lambda m, x: last(last(x)), ["permute"]),
        (lambda m, x: first(F.relu(last(x))), ["relu"]),
        (lambda m, x: first(torch.sigmoid(last(x) * m.g + m.b)), ["mul_constant", "add_constant", "sigmoid"]),
        (lambda m, x: first(last(x.neg()) + last(x)), ["neg", "add"]),
        (several, None),
        (lambda m, x: last(F.relu(last(x))), ["permute", "relu", "permute"]),
        (lambda m, x: first(last(x) + last(x).mean((1, 2), keepdim=True)), None),
        (lambda m, x: (y := F.relu(last(x))) * first(y).amax((1, 2, 3), keepdim=True), None),
        # one goes, one stays
        (lambda m, x: torch.cat([last(first(y := F.relu(last(x)))), y], 3), ["permute", "relu", "cat"]),
    ],
)
def test_permutes(form, expected):
    found = names(form)
    if expected is not None:
        assert found == expected
    elif form is several:
        assert "permute" not in found
    else:
        assert "permute" in found


def test_a_value_that_leaves_elsewhere_is_permuted_there():
    graph = recognised(lambda m, x: first(y := F.relu(last(x) + last(x.neg()))).amax(1) + y.amax(3))
    found = nets.operators(graph)
    assert found.count("permute") == 1
    assert tensor_shape(nets.find(graph, "relu")) == (None, 4, 6, 5)
