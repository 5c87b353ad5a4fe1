"""Inputs that nobody gave: alike on every call, of the types and shapes that a model states."""

import numpy as np
import pytest

from isobit.backends.device.inputs import random_inputs, runs_of
from isobit.backends.device.replay import CannotCheck


def test_values_are_seeded_and_of_the_type_that_is_wanted():
    described = [((2, 3), np.float32), ((500,), "uint8"), ((500,), np.int64), ((500,), np.bool_), ((500,), np.int8)]
    found, again = random_inputs(described), random_inputs(described)
    assert [(array.shape, array.dtype) for array in found] == [(shape, np.dtype(kind)) for shape, kind in described]
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))
    assert found[0].std() > 0 and found[1].max() > 200 and found[4].min() < -100
    assert set(found[2]) == {0, 1}, "places in a table"


@pytest.mark.parametrize(
    ("declared", "batch", "shapes", "runs"),
    [
        ([["N", 3, 8]], 4, [[4, 3, 8]], 1),
        ([[1, 3, 8]], 4, [[1, 3, 8]], 4),
        ([[2, 3], [None, 5]], 4, [[2, 3], [2, 5]], 2),
        ([[], ["N", 2]], 3, [[], [3, 2]], 1),
    ],
)
def test_a_batch_is_one_run_or_several(declared, batch, shapes, runs):
    assert runs_of(declared, batch) == (shapes, runs)


def test_sizes_that_are_open_and_batches_that_do_not_fit_are_told():
    with pytest.raises(CannotCheck, match=r"sizes of its input \['N', 3, 'height'\] are open"):
        runs_of([["N", 3, "height"]], 1)
    with pytest.raises(CannotCheck, match="4 samples at a time: give --batch 4"):
        runs_of([[4, 3]], 6)
