"""Where samples lie: found from what depends on the second of two, and values brought into their order and back."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.capture.sample_layout import Samples, find_samples

PLACES = {
    "first": ((0, 1, 1), (2, 3, 4)),
    "folded": ((0, 1, 4), (8, 3)),
    "channels first": ((0, 3, 1), (6, 5)),
    "between": ((0, 3, 2), (12, 5)),
    "second": ((1, 1, 1), (64, 2, 8)),
    "last": ((2, 1, 1), (4, 5, 2)),
    "inside": ((1, 2, 3), (4, 12, 5)),
    "alone": ((0, 1, 1), (2,)),
}


def numbered(place, shape):
    """[shape], the number of the sample that each element belongs to."""
    axis, outer, inner = place
    line = torch.arange(shape[axis]) // inner % (shape[axis] // (outer * inner))
    return line.reshape([-1 if other == axis else 1 for other in range(len(shape))]).expand(shape)


@pytest.mark.parametrize("name", PLACES)
def test_the_batch_is_found_in_its_axis(name):
    place, shape = PLACES[name]
    numbers = numbered(place, shape)
    found = find_samples(numbers == 0, numbers == 1)
    assert found == Samples(*place)
    assert found.is_first == (name in ("first", "alone"))


def test_padding_belongs_to_no_sample():
    numbers = torch.nn.functional.pad(numbered((0, 1, 4), (8, 3, 3)), (1, 1, 2, 0), value=-1)
    assert find_samples(numbers == 0, numbers == 1) == Samples(0, 1, 4)


@pytest.mark.parametrize("second", [
    torch.eye(2, dtype=torch.bool), torch.tensor([False, True, True, True]), torch.tensor([True, True, False, False]),
    torch.tensor([False, True, False]), torch.ones(2, 3, dtype=torch.bool),
], ids=str)
def test_what_is_no_batch_along_one_axis_is_not_found(second):
    assert find_samples(~second, second) is None


@pytest.mark.parametrize("name", PLACES)
def test_samples_are_gathered_and_put_back(name):
    place, shape = PLACES[name]
    axis, outer, inner = place
    samples, sizes = Samples(*place), list(shape)
    sizes[axis] = outer * 5 * inner
    numbers = numbered(place, tuple(sizes))
    gathered = samples.gather(numbers)
    assert gathered.shape[0] == 5
    assert all(torch.equal(row, torch.full_like(row, index)) for index, row in enumerate(gathered))
    values = torch.randn(sizes)
    assert torch.equal(samples.scatter(samples.gather(values)), values)
