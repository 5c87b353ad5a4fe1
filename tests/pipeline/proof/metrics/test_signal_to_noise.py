"""The ratio of powers in decibel, over two batches; no ratio where there is no noise or no signal."""

import numpy as np
import pytest

from isobit.pipeline.proof.metrics import Outputs
from isobit.pipeline.proof.metrics.signal_to_noise import SignalToNoise


def measured(*pairs):
    ratio = SignalToNoise(("float", "artifact"))
    for reference, other in pairs:
        ratio.add(Outputs("values", {"float": np.float32(reference), "artifact": np.float32(other)}, {}, None))
    return ratio


def test_powers_add_up_over_batches():
    ratio = measured(([[1.0]], [[2.0]]), ([[3.0]], [[4.0]]))
    assert ratio.values == {"artifact": pytest.approx(10 * np.log10(5), abs=0.01)}
    assert ratio.unexplained == pytest.approx(1.0)


def test_without_noise_or_signal_there_is_no_ratio():
    assert measured(([[1.0]], [[1.0]])).values == {"artifact": None}
    assert measured(([[0.0]], [[1.0]])).values == {"artifact": None}
    assert measured(([[2.0]], [[1.0]])).unexplained is None
