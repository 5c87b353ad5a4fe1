"""Tensors while a program is made: where values lie, and the moves that lay them out anew."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point.program import Buffer, Move
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.fixed_point.tensors import Tensors, same_bytes
from isobit.backends.fixed_point.values import Refusal, Value
from isobit.pipeline.capture.capture import capture

GRID = CodeGrid(torch.tensor(0.5), 3, 0, 255)


def tensors(*shape):
    """A graph's tensors, the node of a value of `shape`, and the number of the tensor where it lies by channels."""
    graph = capture(nn.Linear(shape[-1], shape[-1]).eval(), torch.zeros(1, *shape)).graph
    node = next(node for node in graph.graph.nodes if node.op == "call_function")
    return Tensors(graph, integer_target("test", "any")), node


def test_codes_are_laid_out_once_for_each_order():
    made, node = tensors(4, 6)
    number = made.add(Buffer("x", (1, 6, 4), 3, 0.5, False, (4, 6)))
    made.values[node] = Value(number, GRID, np.arange(24).reshape(6, 4).T[None])
    assert made.codes(node, node) == number and made.steps == []
    rows = made.codes(node, node, in_order=True)
    assert made.codes(node, node, in_order=True) == rows != number
    assert made.buffers[rows].in_order and made.buffers[rows].shape == (1, 4, 6)
    (step,) = made.steps
    assert isinstance(step, Move) and step.inputs == (number,) and step.output == rows
    assert not made.lies_in_order(node)


def test_integers_are_read_as_they_are():
    made, node = tensors(4, 6)
    number = made.store_integers(node)
    assert made.integers(node, node) == number and made.buffers[number].integers
    with pytest.raises(Refusal, match="computes with codes"):
        made.codes(node, node)
    made.values[node] = Value(number, GRID, np.arange(24)[::-1].reshape(1, 4, 6))
    with pytest.raises(Refusal, match="as they come in"):
        made.integers(node, node)


def test_the_same_bytes_under_another_shape():
    made, node = tensors(4, 6)
    number = made.add(Buffer("x", (1, 6, 4), 3, 0.5, True, (4, 6)))
    assert made.reshaped(node, number, (1, 6, 4)) == number
    other = made.reshaped(node, number, (2, 3, 4))
    assert made.buffers[other].shape == (2, 3, 4) and not made.buffers[other].quantized
    assert same_bytes("x", "", 0, 1, 3).index.tolist() == [0, 1, 2]
