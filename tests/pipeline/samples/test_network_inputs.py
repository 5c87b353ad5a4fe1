"""Inputs as one tensor or several: parts, joins, counts."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.network_inputs import grouped, part, raw_inputs, sample_count, tensors

ONE = torch.arange(6.0).reshape(3, 2)
TWO = (ONE, torch.tensor([[1], [2], [3]]))


def test_one_input_stays_a_tensor() -> None:
    assert tensors(ONE) == (ONE,) and grouped([ONE]) is ONE
    assert torch.equal(part(ONE, slice(1, 3)), ONE[1:])  # pyright: ignore[reportArgumentType] - one tensor
    assert sample_count(ONE) == 3


def test_every_input_gives_the_same_samples() -> None:
    picked = part(TWO, [2, 0])
    assert [value.tolist() for value in tensors(picked)] == [[[4.0, 5.0], [0.0, 1.0]], [[3], [1]]]
    columns = zip(tensors(part(TWO, slice(0, 1))), tensors(part(TWO, slice(1, 3))), strict=True)
    assert all(torch.equal(torch.cat(parts), whole) for parts, whole in zip(columns, TWO, strict=True))
    assert sample_count(TWO) == 3


def test_integers_that_devices_cannot_read_are_refused() -> None:
    most = 2**31 - 1
    assert raw_inputs(torch.tensor([[most]]), [True]).view("int32").tolist() == [[most]]
    with pytest.raises(InputError, match=r"'tokens' holds 2147483648(.|\n)*from -2147483648 to 2147483647"):
        raw_inputs((ONE, torch.tensor([[0], [most + 1], [5]])), [False, True], ["image", "tokens"])
