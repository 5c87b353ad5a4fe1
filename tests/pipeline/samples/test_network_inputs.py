"""Inputs as one tensor or several: parts, joins, counts."""

from __future__ import annotations

import torch

from isobit.pipeline.samples.network_inputs import grouped, part, sample_count, tensors

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
