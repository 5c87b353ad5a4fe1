"""Products with a constant matrix are layers, named as their matrix."""

from __future__ import annotations

import pytest
import torch

from isobit.passes import prepare
from tests.examples import nets
from tests.passes.recognise.recognised import Parts, names


@pytest.mark.parametrize(
    ("form", "shape", "expected"),
    [
        (lambda m, x: torch.matmul(x, m.w), (6,), ["linear"]),
        (lambda m, x: torch.mm(x, m.w), (6,), ["linear"]),
        (lambda m, x: x @ m.w, (4, 6), ["linear"]),
        (lambda m, x: torch.addmm(m.v, x, m.w), (6,), ["linear"]),
        (lambda m, x: torch.addmm(m.v, x, m.w, beta=0.5, alpha=2), (6,), ["linear"]),
        (lambda m, x: x @ m.w @ m.w.t(), (6,), ["linear", "linear"]),
        (lambda m, x: m.w.t() @ x, (6, 3), ["matmul_of_parameter"]),
        (lambda m, x: x @ x.transpose(1, 2), (4, 6), ["permute", "matmul"]),
    ],
)
def test_products_that_are_layers(form, shape, expected):
    assert names(form, *shape) == expected


@pytest.mark.parametrize("form", [lambda m, x: x @ m.w + m.v, lambda m, x: m.v + torch.mm(x, m.w)])
def test_the_sum_after_it_is_its_bias(form):
    captured, x = nets.captured_of(Parts(form), 6)
    before = nets.run(captured.graph, x)
    graph = prepare(captured.graph)
    assert nets.operators(graph) == ["linear"]
    assert nets.layer_names(graph) == ["w"]
    torch.testing.assert_close(nets.run(graph, x), before, rtol=1e-5, atol=1e-5)
