"""Rescales as numbers and an expression of a kernel; what they compute is shown by every kernel's test."""

import numpy as np

from backends.fixed_point.rescale import Rescale, Term
from backends.tvm_int8.parameters import Parameters
from backends.tvm_int8.rescaling import add_rescale


def test_upper_halves_and_what_remains_of_the_shift():
    numbers = Parameters()
    many = Term(0, np.array([5, 6, 7], np.int32))
    vectors = add_rescale(numbers, Rescale((many, Term(3, np.array([9], np.int32))), 40, (4 << 40) + (1 << 39)), 16)
    array = numbers.array
    (first, each), (second, one) = vectors.multipliers
    assert (each, one, vectors.half) == (True, False, False)
    assert array[first:first + 4].tolist() == [5, 6, 7, 0]
    assert set(array[second:second + 16]) == {9}
    assert array[vectors.lifts[1]] == 3
    assert vectors.lifts[0] is None
    assert array[vectors.offset] == (4 << 8) + (1 << 7)
    assert array[vectors.shift] == 8


def test_a_shift_of_32_rounds_in_the_lower_half():
    vectors = add_rescale(Parameters(), Rescale((Term(0, np.array([5], np.int32)),), 32, (4 << 32) + (1 << 31)), 16)
    assert vectors.half


def test_channels_may_be_permuted():
    numbers = Parameters()
    rescale = Rescale((Term(0, np.array([5, 6, 7, 8], np.int32)),), 40, 1 << 39)
    vectors = add_rescale(numbers, rescale, 4, np.array([2, 0, 3, 1, 1]))
    start = vectors.multipliers[0][0]
    assert numbers.array[start:start + 5].tolist() == [7, 5, 8, 6, 6]


def test_the_expression_names_the_vocabulary():
    vectors = add_rescale(Parameters(), Rescale((Term(2, np.array([5, 6], np.int32)),), 40, 1 << 39), 16)
    text = vectors.apply(["a"], "n * 16", "w")
    assert text.startswith("w.rescale([(T.shift_left(a, w.load(P, ")
    assert "n * 16" in text
