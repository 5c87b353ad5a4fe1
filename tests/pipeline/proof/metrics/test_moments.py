"""Moments of batches are those of all numbers together."""

import numpy as np
import pytest

from isobit.pipeline.proof.metrics.moments import Moments


def test_moments_of_batches_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(3, 2, (40, 5))
    moments = Moments()
    for part in np.split(values, 4):
        moments.add(part)
    assert moments.count == 200 and moments.total == pytest.approx(values.sum())
    assert moments.variance == pytest.approx(values.var()) and Moments().variance == 0
