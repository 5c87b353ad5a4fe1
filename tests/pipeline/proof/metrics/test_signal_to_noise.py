"""The ratio of powers in decibel, over two batches; no ratio where there is no noise or no signal."""

import numpy as np
import pytest

from isobit.pipeline.proof.metrics.signal_to_noise import Noise, SignalToNoise


def measured(*pairs):
    ratio = SignalToNoise()
    for reference, other in pairs:
        ratio.update({"out": np.float32(other)}, {"out": np.float32(reference)})
    return ratio


def test_powers_add_up_over_batches():
    split, whole = measured(([[1.0]], [[2.0]]), ([[3.0]], [[4.0]])), measured(([[1.0], [3.0]], [[2.0], [4.0]]))
    assert split.compute() == whole.compute() == pytest.approx(10 * np.log10(5), abs=0.01)
    assert split.outputs["out"].unexplained == pytest.approx(1.0)


def test_without_noise_or_signal_there_is_no_ratio():
    assert measured(([[1.0]], [[1.0]])).compute() is None
    assert measured(([[0.0]], [[1.0]])).compute() is None
    assert measured(([[2.0]], [[1.0]])).outputs["out"].unexplained is None


def test_the_worst_output_counts_and_one_that_is_not_finite_leaves_no_number():
    ratio = SignalToNoise()
    reference = {"a": np.float32([[10.0]]), "b": np.float32([[10.0]]), "c": np.float32([[10.0]])}
    ratio.update({"a": np.float32([[11.0]]), "b": np.float32([[20.0]]), "c": np.float32([[10.0]])}, reference)
    assert [ratio.outputs[name].ratio for name in "abc"] == [20.0, 0.0, None] and ratio.compute() == 0.0
    ratio.update(reference | {"a": np.float32([[np.inf]])}, reference)
    assert ratio.compute() is None


def test_the_share_of_the_variance_looks_through_a_constant():
    noise = Noise()
    noise.add(np.float32([[101.0], [99.0]]), np.float32([[102.0], [98.0]]))
    assert noise.ratio == pytest.approx(40.0, abs=0.01) and noise.unexplained == pytest.approx(0.25)
