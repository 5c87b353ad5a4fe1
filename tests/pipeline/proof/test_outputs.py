"""What outputs are follows from their shape; classes are chosen along axis 1."""

import numpy as np
import pytest

from isobit.pipeline.proof.outputs import Share, choices, output_kind, same_choice


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((None, 10), "classes"), ((None, 2), "classes"), ((None, 1), "values"), ((None, 5, 8, 8), "maps"),
     ((None, 84, 100), "maps"), ((None, 1, 8, 8), "values"), ((None, 7, 1, 1), "maps")],
)
def test_kinds_of_outputs(shape, kind):
    assert output_kind(shape) == kind


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
