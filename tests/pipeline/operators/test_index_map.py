"""Axes that move apart from each other; what each row does is shown in `test_moves`."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isobit.pipeline.operators.index_map import OUTSIDE, axis_maps


@given(data=st.data())
@settings(max_examples=60)
def test_axes_that_move_apart_are_found(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    chosen = [np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))) for size in shape]
    index = np.arange(np.prod(shape)).reshape(shape)[np.ix_(*chosen)]
    found = axis_maps(index, shape)
    assert found is not None
    assert all(np.array_equal(one, other) for one, other in zip(found, chosen, strict=True))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_axes_of_any_other_map_are_not(seed):
    index = np.random.default_rng(seed).permutation(12).reshape(3, 4)
    found = axis_maps(index, (3, 4))
    assert found is None or np.array_equal(np.arange(12).reshape(3, 4)[np.ix_(*found)], index)
    assert axis_maps(np.arange(12).reshape(3, 2, 2), (3, 4)) is None
    assert axis_maps(np.array([0, OUTSIDE]), (2,)) is None
