"""Cosine of each sample's values, a mean over samples, and the worst of all outputs."""

import numpy as np
import pytest

from isobit.pipeline.proof.metrics.cosine import Cosine


def measured(*batches):
    cosine = Cosine()
    for given, reference in batches:
        cosine.update({"out": np.float32(given)}, {"out": np.float32(reference)})
    return cosine


def test_a_mean_over_samples_of_all_batches():
    # 45 degrees, the same direction, the opposite one.
    whole = measured(([[1, 1], [2, 4], [1, 0]], [[1, 0], [1, 2], [-3, 0]]))
    split = measured(([[1, 1]], [[1, 0]]), ([[2, 4], [1, 0]], [[1, 2], [-3, 0]]))
    assert whole.compute() == split.compute() == pytest.approx(np.sqrt(0.5) / 3, abs=1e-6)


def test_zeros_point_where_zeros_do_and_nowhere_else():
    assert measured(([[0, 0]], [[0, 0]])).compute() == 1.0
    assert measured(([[0, 0]], [[1, 0]])).compute() == 0.0


def test_the_worst_output_counts_and_each_can_be_asked():
    cosine = Cosine()
    cosine.update({"a": np.float32([[1, 0]]), "b": np.float32([[1, 0]])},
                  {"a": np.float32([[1, 0]]), "b": np.float32([[0, 1]])})
    assert (cosine.of("a"), cosine.of("b"), cosine.compute()) == (1.0, 0.0, 0.0)


def test_nothing_and_what_is_not_finite_have_none():
    assert Cosine().compute() is None
    with np.errstate(invalid="ignore"):
        assert measured(([[np.inf, 0]], [[1, 0]])).compute() is None
        assert measured(([[np.nan, 0], [1, 0]], [[1, 0], [1, 0]])).compute() is None
        assert measured(([[1, 0]], [[np.nan, 0]])).compute() is None
