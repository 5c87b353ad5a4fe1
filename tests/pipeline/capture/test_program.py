"""Inputs and outputs of an exported program are flat, and named as the model names them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.pipeline.capture.program import check_sizes, plain_graph
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import finish
from isobit.pipeline.graph.ports import input_names, output_names
from tests.examples.ports import Found


class Returning(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(4, 4)

    def forward(self, x):
        return self.function(self.layer(x), x)


def program_of(function):
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(Returning(function).eval(), (torch.ones(2, 4),), dynamic_shapes=shapes)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda y, x: y, ("logits",)),
        (lambda y, x: [y], ("logits",)),
        (lambda y, x: (y, None, 3), ("logits",)),
        (lambda y, x: (y, (y + 1, y + 2)), ("output_0", "output_1", "output_2")),
        (lambda y, x: {"out": y}, ("out",)),
        (lambda y, x: {"a": [y, y], "b": {"c": y}}, ("a.0", "a.1", "b.c")),
        (lambda y, x: {"": y, "b": {"": y}}, ("output_0", "b")),
        (lambda y, x: {"a": [y], "a.0": y, "x": y}, ("a.0", "a.0_", "x_")),
        (lambda y, x: {"a\0": y, "\ud800": y}, ("a\\x00", "\\ud800")),
        (lambda y, x: Found(y, y), ("boxes", "scores")),
        (lambda y, x: ({"deep": y}, y), ("0.deep", "output_1")),
    ],
)
def test_names_of_outputs(function, names):
    graph = plain_graph(program_of(function))
    assert output_names(graph) == names and input_names(graph) == ("input",)
    x = torch.randn(3, 4)
    flat = [value for value in torch.utils._pytree.tree_leaves(program_of(function).module()(x))
            if isinstance(value, torch.Tensor)]
    returned = graph(x)
    assert len(flat) == len(names) == (1 if isinstance(returned, torch.Tensor) else len(returned))


def test_an_output_called_input_keeps_its_name():
    graph = plain_graph(program_of(lambda y, x: {"input": y, "logits": y + 1}))
    assert output_names(graph) == ("input", "logits") and input_names(graph) == ("input_",)


def test_an_input_has_the_name_that_it_is_given():
    assert input_names(plain_graph(program_of(lambda y, x: y), ("features",))) == ("features",)


def test_a_program_without_tensors_is_refused():
    with pytest.raises(CaptureError, match="returns 0 tensors"):
        plain_graph(program_of(lambda y, x: 3))


def test_a_program_that_asks_for_too_much_memory_is_refused_without_taking_it():
    graph = finish(plain_graph(program_of(lambda y, x: y + 1)))
    check_sizes(graph)
    large = plain_graph(program_of(lambda y, x: y.repeat(1, 1 << 16).repeat(1, 1 << 14).sum(1)))
    with pytest.raises(CaptureError, match="makes a tensor of shape"):
        check_sizes(large)
