"""The values of a quantized tensor that its readers tell apart: ends of gates, of clamps, and of what is read twice."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from isobit.backends.onnx.target import TARGETS
from isobit.calib.ranges.told_apart import EVERYTHING, ends_told_apart
from isobit.passes import quantize
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets
from tests.passes.plans import Call

SATURATED = math.log(509)


def ends(function):
    """Give the ends of the tensor that the first layer makes."""
    captured, _ = nets.captured_of(Call(function), 3, 6, 6)
    graph = quantize(captured, load_recipe("minmax_w8a8"), TARGETS["generic"]).graph
    found = ends_told_apart(graph)
    tensor = next(t for t in quantized_tensors(graph).activations() if op_name(t.source) == "conv2d")
    return found[tensor.quantizer]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: m.b(F.hardswish(m.a(x))), (-3.0, math.inf)),
        (lambda m, x: m.b(m.c(x) * F.hardsigmoid(m.a(x))), EVERYTHING),  # c comes first here
        (lambda m, x: m.b(F.hardsigmoid(m.a(x))), (-3.0, 3.0)),
        (lambda m, x: m.b(F.silu(m.a(x))), (-SATURATED, math.inf)),
        (lambda m, x: torch.sigmoid(m.a(x)), (-SATURATED, SATURATED)),
        (lambda m, x: m.b(F.leaky_relu(m.a(x))), EVERYTHING),
        # Through what lays values out: a transposed convolution ends so.
        (lambda m, x: torch.sigmoid(m.a(x).flatten(2).transpose(1, 2)), (-SATURATED, SATURATED)),
        (lambda m, x: (lambda y: (torch.sigmoid(y), y))(m.a(x).flatten(2)), EVERYTHING),
    ],
)
def test_ends_are_those_of_the_readers(function, expected):
    assert ends(function) == expected


def test_of_two_readers_the_wider_end_counts():
    def twice(m, x):
        y = m.a(x)
        return m.b(F.hardsigmoid(y)) + m.c(F.hardswish(y))

    assert ends(twice) == (-3.0, math.inf)

    def beside(m, x):
        y = m.a(x)
        return m.b(F.hardsigmoid(y)) + m.c(y)

    assert ends(beside) == EVERYTHING


def test_what_leaves_the_network_is_told_apart_everywhere():
    assert ends(lambda m, x: (lambda y: (y, m.b(F.hardswish(y))))(m.a(x))) == EVERYTHING
