"""Mean absolute error against numbers by hand; targets of another shape are refused."""

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import METRICS
from isobit.pipeline.proof.metrics.mean_absolute_error import MeanAbsoluteError


def measured(*batches):
    error = MeanAbsoluteError()
    for given, target in batches:
        error.update({"value": np.float32(given)}, torch.tensor(target))
    return error.compute()


def test_a_mean_over_all_values_of_all_batches():
    assert measured(([[1.0], [2.0], [4.0]], [[1.5], [2.0], [3.0]])) == 0.5
    assert measured(([[1.0]], [[1.5]]), ([[2.0], [4.0]], [[2.0], [3.0]])) == 0.5
    assert measured(([[1, 2], [3, 4]], [[1, 2], [3, 8]])) == 1.0


def test_axes_of_length_one_may_be_left_out():
    assert measured(([[1.0], [2.0]], [2.0, 4.0])) == 1.5


@pytest.mark.parametrize("target", [[[1.0, 2.0]], [1.0, 2.0, 3.0], [1.0]])
def test_targets_of_another_shape_are_refused(target):
    with pytest.raises(InputError, match=r"compared with an output of shape \[2, 1\]"):
        measured(([[1.0], [2.0]], target))


def test_less_is_better_and_nothing_says_nothing():
    metric = METRICS.get("mean_absolute_error")
    assert metric.loss(0.5, 0.75) == 0.25 and not metric.higher_is_better
    assert MeanAbsoluteError().compute() is None and measured(([[np.inf]], [[0.0]])) is None
