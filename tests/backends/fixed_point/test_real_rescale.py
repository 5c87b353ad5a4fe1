"""Rescales in float32 against integers, over every sum that can occur."""

import numpy as np
import pytest

from isobit.backends.fixed_point.real_rescale import Residual, real_rescale
from isobit.backends.fixed_point.rescale import Part, make_rescale


def integer_codes(rescale, channel, sums, others):
    total = rescale.offset
    for term, values in zip(rescale.terms, (sums, others), strict=False):
        multiplier = int(term.multiplier[channel % len(term.multiplier)])
        total = total + (values.astype(np.int64) << term.lift) * multiplier
    return total >> rescale.shift


def real_codes(found, channel, sums, others, fused):
    """In float32, each operation rounded; or with the multiplications exact, as fused ones are."""
    wide = np.float64 if fused else np.float32
    total = np.full(np.broadcast(sums, others).shape, found.start[channel], np.float32)
    for factor, values in reversed(list(zip(found.factors, (sums, others), strict=False))):
        product = values.astype(np.float32).astype(wide) * factor[channel % len(factor)].astype(wide)
        total = (product + total.astype(wide)).astype(np.float32)
    return np.trunc(total).astype(np.int64)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("high", "zero"), [(15, 0), (15, 7), (3, 1), (255, 0)])
def test_every_sum_has_the_code_of_the_integers(high, zero, fused):
    random = np.random.default_rng(high + zero)
    ends = np.array([-3000, -10, 40, -900]), np.array([2500, 900, 70, -20])
    ratios = random.uniform(0.2, 1.0, 4) * (high + 1) / 2000
    rescale = make_rescale([Part(ratios, 3000)], zero)
    found = real_rescale(rescale, ends, 0, high)
    assert found is not None
    for channel, (least, largest) in enumerate(zip(*ends, strict=True)):
        sums = np.arange(least, largest + 1)
        wanted = integer_codes(rescale, channel, sums, sums * 0).clip(0, high)
        assert np.array_equal(real_codes(found, channel, sums, sums * 0, fused).clip(0, high), wanted)


@pytest.mark.parametrize("fused", [False, True])
def test_with_a_residual(fused):
    ends = np.array([-700, -300]), np.array([800, 100])
    rescale = make_rescale([Part(np.array([0.0173, 0.03179]), 800), Part(np.array([0.61373]), 15)], 4)
    found = real_rescale(rescale, ends, 1, 15, Residual(15, 6))
    assert found is not None
    codes = np.arange(16)[:, None]
    for channel in range(2):
        sums = np.arange(ends[0][channel], ends[1][channel] + 1)[None]
        wanted = integer_codes(rescale, channel, sums, codes - 6).clip(1, 15)
        assert np.array_equal(real_codes(found, channel, sums, codes, fused).clip(1, 15), wanted)


def test_a_grid_of_one_code_and_many_channels():
    ends = np.full(70_000, -90), np.full(70_000, 80)
    rescale = make_rescale([Part(np.random.default_rng(0).uniform(0.05, 0.1, 70_000), 90)], 0)
    for low, high in ((3, 3), (0, 15)):
        found = real_rescale(rescale, ends, low, high)
        assert found is not None and len(found.start) == len(found.factors[0]) == 70_000


def test_what_float32_might_miss_stays_in_integers():
    def asked(ratio, largest, high=15, residual=None):
        parts = [Part(np.array([ratio]), largest), *([Part(np.array([0.5]), 255)] if residual else [])]
        return real_rescale(make_rescale(parts, 0), (np.array([-largest]), np.array([largest])), 0, high, residual)

    assert asked(0.01, 10_000) is not None
    assert asked(0.01, 1 << 25) is None  # sums that float32 does not hold
    assert asked(1.3e-5, 10_000_000) is None  # steps as small as roundings
    assert asked(0.01, 10_000, 255, Residual(255, 0)) is None  # too many pairs to be looked at
