"""What an operator's function sees of its call."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.onnx.call import OPERATORS, BatchAxis, Call, as_host, as_tensor, host, operator
from isobit.pipeline.model.onnx.graph import Node


def call(*values, constants=None, **attributes) -> Call:
    names = tuple(f"i{place}" for place in range(len(values)))
    return Call(Node("Add", "sum", names, ("y",), attributes), 17, values, constants or {})


def test_a_constant_with_one_element_is_a_number_beside_a_tensor():
    constant = torch.tensor([0.5])
    found = call(torch.ones(2, 3), as_host(constant), constants={1: constant})
    assert found.operand(1, 0) == 0.5
    assert found.operand(0, 1) is found.values[0]
    scalar = call(torch.tensor(1.0), as_host(constant), constants={1: constant})
    assert scalar.operand(1, 0) is constant  # it adds an axis


def test_sizes_are_known_and_values_of_the_input_are_not():
    assert call(host([1, 2])).integers(0) == [1, 2]
    with pytest.raises(InputError, match=r"depends on the values[\s\S]*node 'sum'"):
        call(torch.ones(2)).integers(0)


def test_numbers_become_tensors_of_their_kind():
    assert as_tensor(host([1, 2])).dtype is torch.int64
    assert as_tensor(host([1.0, 2])).dtype is torch.float32
    assert as_tensor(host([True, False])).dtype is torch.bool
    assert as_tensor(as_host(torch.arange(6).reshape(2, 3))).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_attribute_of_another_value_is_refused():
    call(layout=0).only(layout=0, clip=None)
    with pytest.raises(InputError, match="layout is 1"):
        call(layout=1).only(layout=0)


def test_a_batch_axis_is_a_multiple_of_the_batch():
    assert BatchAxis(0, 1, 3, 2).size(torch.ones(5, 4)) == 6


def test_an_operator_is_registered_once():
    assert "Conv" in OPERATORS
    with pytest.raises(ValueError, match="registered twice"):
        operator("Conv")(lambda call: call.tensor(0))
