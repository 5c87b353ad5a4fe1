"""What outputs are follows from their shape and from what is known of them; classes are chosen along axis 1."""

import numpy as np
import pytest

from isobit.pipeline.proof.outputs import Share, choices, labels_positions, output_kind, same_choice


@pytest.mark.parametrize(
    ("shape", "kind", "dense"),
    [((None, 10), "classes", "classes"), ((None, 2), "classes", "classes"), ((None, 1), "values", "values"),
     ((None, 5, 8, 8), "values", "maps"), ((None, 84, 100), "values", "maps"), ((None, 1, 8, 8), "values", "values"),
     ((None, 7, 1, 1), "values", "maps"), ((None, 4420, 4), "values", "maps"), ((None,), "values", "values")],
)
def test_a_choice_at_positions_is_one_where_that_is_known(shape, kind, dense):
    assert output_kind(shape) == kind and output_kind(shape, dense=True) == dense


@pytest.mark.parametrize(("labels", "fit"), [
    (np.zeros((2, 4, 4), np.int64), True), (np.full((2, 4, 4), 255), True), (np.full((2, 4, 4), 2, np.uint8), True),
    (np.full((2, 4, 4), 3), False), (np.full((2, 4, 4), -1), False), (np.zeros((2, 4, 4), np.float32), False),
    (np.zeros(2, np.int64), False), (np.zeros((2, 4), np.int64), False), (np.zeros((2, 1, 4, 4), np.int64), False),
])
def test_labels_of_positions_are_whole_numbers_of_their_shape(labels, fit):
    assert labels_positions(labels, (2, 3, 4, 4)) == fit and not labels_positions(np.zeros(2, np.int64), (2, 3))


def test_a_choice_is_made_along_the_classes_at_every_position():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    assert choices(maps).shape == (2, 4, 5) and choices(maps[:, :1]) is None
    other = maps.copy()
    other[0, :, 0, 0] = -np.sort(-other[0, :, 0, 0])[[1, 0, 2]]
    assert same_choice(maps, maps).all() and same_choice(maps, maps).size == 40
    assert same_choice(maps[:, :1], maps[:, :1]).size == 0


def test_shares():
    share = Share()
    assert share.percent is None
    share.add(np.array([[True, False], [True, True]]))
    assert share.percent == 75.0
