"""The rule against real numbers: exact to half a step and a hair, halves up, and a refusal where nothing fits."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from isobit.backends.fixed_point.rescale import (
    LEAST_SHIFT,
    MOST_SHIFT,
    Part,
    Term,
    apply_rescale,
    largest_magnitude,
    make_rescale,
)
from isobit.pipeline.errors import TargetError


def parts_of(rng, count):
    ratios = [2.0 ** rng.uniform(-30, 2, 4) for _ in range(count)]
    return [Part(ratio, int(rng.integers(1, 1 << 24))) for ratio in ratios]


@pytest.mark.parametrize("count", [1, 2])
def test_codes_are_the_real_number_rounded(count):
    rng = np.random.default_rng(7)
    for _ in range(200):
        parts, zero = parts_of(rng, count), int(rng.integers(0, 256))
        rescale = make_rescale(parts, zero)
        values = [rng.integers(-part.bound, part.bound + 1, (5, 4)) for part in parts]
        got = apply_rescale(rescale, [torch.from_numpy(value) for value in values]).numpy()
        for row in range(5):
            for channel in range(4):
                exact = zero + sum(Fraction(float(part.ratio[channel])) * int(value[row, channel])
                                   for part, value in zip(parts, values, strict=True))
                # A multiplier is off by at most half a unit: its share of the sum is the error.
                error = sum(Fraction(part.bound << term.lift, 2 << rescale.shift)
                            for part, term in zip(parts, rescale.terms, strict=True))
                assert abs(exact - int(got[row, channel])) <= Fraction(1, 2) + 2 * error


def test_multipliers_have_all_their_bits_where_bounds_allow():
    rescale = make_rescale([Part(np.array([0.003, 0.001]), 1 << 20)], 3)
    assert 1 << 30 <= rescale.terms[0].multiplier.max() < 1 << 31
    assert rescale.terms[0].lift == 0


def test_halves_round_up():
    rescale = make_rescale([Part(np.array([0.25]), 100)], 0)
    assert apply_rescale(rescale, [torch.tensor([[2], [-2], [6], [1]])]).flatten().tolist() == [1, 0, 2, 0]


def test_large_ratios_lift_the_value():
    rescale = make_rescale([Part(np.array([3.0]), 100)], 10)
    assert rescale.shift >= LEAST_SHIFT and rescale.terms[0].lift > 0
    assert apply_rescale(rescale, [torch.tensor([[7]])]).item() == 31


def test_nothing_leaves_64_bits():
    rng = np.random.default_rng(8)
    for _ in range(500):
        parts = parts_of(rng, int(rng.integers(1, 3)))
        rescale = make_rescale(parts, 255)
        assert LEAST_SHIFT <= rescale.shift <= MOST_SHIFT
        total = rescale.offset
        for part, term in zip(parts, rescale.terms, strict=True):
            assert part.bound << term.lift < 1 << 31
            assert (term.multiplier.min() > 0 and term.multiplier.max() < 1 << 31) or part.ratio.min() < 2.0**-40
            total += (part.bound << term.lift) * int(term.multiplier.max())
        assert total < 1 << 63


def test_two_addends_that_fit_alone_must_fit_together():
    """Both products are just below 2^62, and the offset comes on top: one bit less for each."""
    parts = [Part(np.array([2.0**-9 * (1 - 2.0**-31)]), (1 << 31) - 1)] * 2
    alone, both = make_rescale(parts[:1], 255), make_rescale(parts, 255)
    assert both.shift == alone.shift - 1
    most = sum(((1 << 31) - 1 << term.lift) * int(term.multiplier.max()) for term in both.terms)
    assert both.offset + most < 1 << 63 <= alone.offset + 2 * ((1 << 31) - 1) * int(alone.terms[0].multiplier.max())


def test_what_cannot_be_held_names_the_layer():
    with pytest.raises(TargetError, match=r"node conv9.*`target=onnx`|tiny beside its sums") as error:
        make_rescale([Part(np.array([1000.0]), 1 << 30)], 0, "node conv9")
    assert "node conv9" in str(error.value)


def test_a_subtracted_addend_counts_with_its_magnitude():
    term = Term(1, np.array([-(2**31 - 1), 3], np.int32))
    assert largest_magnitude(term, Part(np.array([1.0]), 5)) == 10 * (2**31 - 1)
