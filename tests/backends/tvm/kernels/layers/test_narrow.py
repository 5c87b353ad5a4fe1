"""How long sums may stay in 16 bits: as long as no codes can make them too large, and no longer."""

import numpy as np
import pytest

from isobit.backends.tvm.kernels.layers.narrow import LARGEST, longest_run, window_fits
from tests.backends.fixed_point import oracle


def weights(value, count, blocks=2):
    return np.full((blocks, count, 4, 2), value, np.int8)


@pytest.mark.parametrize(("value", "largest", "run"), [
    (7, 15, 72), (-8, 15, 72), (7, 63, 24), (7, 255, 8), (-8, 255, 8), (64, 255, 1), (65, 255, 0), (-128, 255, 0)])
def test_the_longest_run_of_whole_loops_or_an_equal_part_of_the_last(value, largest, run):
    found = longest_run(weights(value, 72), (3, 1, 24), largest)
    assert found == run
    assert found * 2 * abs(value) * largest <= LARGEST


def test_a_pair_of_two_signs_counts_on_each_side():
    mixed = np.tile(np.array([127, -127], np.int8), (1, 6, 4, 1))
    assert longest_run(mixed, (6,), 255) == 1
    assert longest_run(mixed, (6,), 127) == 2


def test_one_lane_that_does_not_fit_is_enough():
    codes = weights(1, 10)
    codes[1, 3, 2] = 127
    assert longest_run(codes, (10,), 255) == 0
    codes[1, 3, 2, 1] = 1  # 128 * 255 fits, and no second product beside it
    assert longest_run(codes, (10,), 255) == 1


@pytest.mark.parametrize(("value", "largest", "fits"), [
    (14, 255, True), (15, 255, False), (-14, 255, True), (-15, 255, False)])
def test_a_window_of_one_channel(value, largest, fits):
    program = oracle.make_conv((4, 4, 20), 20, groups=20, bits=4)
    codes = program.steps[-1].weights.codes
    codes[...], codes[7] = 0, value
    assert window_fits(program.steps[-1], largest) is fits is (9 * abs(value) * largest <= LARGEST)
