"""Operations with a number in their plainest form."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.graph.nodes import bound_args
from tests.examples import nets
from tests.passes.recognise.recognised import names, recognised


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda m, x: torch.maximum(x, m.zero), ["relu"]),
        (lambda m, x: torch.max(m.zero, x), ["relu"]),
        (lambda m, x: torch.minimum(x, m.six), ["hardtanh"]),
        (lambda m, x: torch.clamp(x, m.zero, m.six), ["hardtanh"]),
        (lambda m, x: torch.minimum(torch.relu(x), m.six), ["hardtanh"]),
        (lambda m, x: torch.relu(torch.minimum(x, m.six)), ["hardtanh"]),
        (lambda m, x: torch.relu(torch.clamp(x, -1, 2)), ["hardtanh"]),
        (lambda m, x: torch.relu(torch.clamp(x, max=-1)), ["hardtanh", "relu"]),
        (lambda m, x: torch.maximum(x, m.g.reshape(1, 4, 1, 1)), ["maximum"]),
        (lambda m, x: torch.pow(x.abs(), m.half_), ["abs", "sqrt"]),
        (lambda m, x: torch.pow(x.abs() + 1, -0.5), ["abs", "add_constant", "rsqrt"]),
        (lambda m, x: torch.pow(x, m.three), ["pow"]),
        (lambda m, x: torch.pow(x, m.two), ["mul"]),
        (lambda m, x: torch.pow(x, m.one).neg(), ["neg"]),
        (lambda m, x: m.three / (x.abs() + 1), ["abs", "add_constant", "reciprocal", "mul_constant"]),
        (lambda m, x: m.one / (x.abs() + 1), ["abs", "add_constant", "reciprocal"]),
        (lambda m, x: ((x + m.zero) * m.one).neg(), ["neg"]),
        (lambda m, x: (x[:, :1] + torch.zeros(1, 4, 1, 1)).neg(), ["slice", "add_constant", "neg"]),
    ],
)
def test_one_form_for_each(form, expected):
    assert names(form) == expected


def test_ends_of_clamps_meet():
    graph = recognised(lambda m, x: torch.relu(torch.clamp(torch.maximum(x, m.one.neg()), -4, 2)))
    assert nets.operators(graph) == ["hardtanh"]
    args = bound_args(nets.find(graph, "hardtanh"))
    assert (args["min_val"], args["max_val"]) == (0.0, 2.0)


def test_a_clamp_that_something_else_reads_stays():
    assert names(lambda m, x: torch.relu(y := torch.clamp(x, -1, 2)) + y) == ["hardtanh", "relu", "add"]
