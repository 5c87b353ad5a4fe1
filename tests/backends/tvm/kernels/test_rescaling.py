"""Rescales as numbers and an expression of a kernel; what they compute is shown by every kernel's test."""

import numpy as np
import pytest

from isobit.backends.fixed_point.rescale import Rescale, Term
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.kernel import Argument, Call, make_kernel
from isobit.backends.tvm.kernels.parameters import Parameters
from isobit.backends.tvm.kernels.rescaling import add_rescale
from tests.backends.tvm import harness


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


@pytest.mark.tvm
def test_every_number_of_a_rescale_is_read():
    harness.needs_tvm()
    e, numbers = instruction_set("lanes"), Parameters()
    vectors = add_rescale(numbers, Rescale((Term(2, np.array([5, 6], np.int32)),), 40, 1 << 39), 16)

    def write(code):
        codes = vectors.apply(e, code["numbers"], [e.load(code["sums"], 0)], 0)
        code.store(code["output"], 0, codes, e.lanes)

    arguments = [Argument("sums", (16,), "int32"), Argument("numbers", numbers.array.shape, "int32"),
                 Argument("output", (16,), "int32")]
    call = Call("rescale", make_kernel(arguments, write), (), (), (16,), "int32")
    from tvm.runtime import tensor

    output, sums = tensor(np.zeros(16, np.int32)), np.arange(-8, 8, dtype=np.int32) << 26
    module = harness.compile_kernels({"kernel": call}, harness.needs("lanes"))
    module["kernel"](tensor(sums), tensor(numbers.array), output)
    factors = np.array([5, 6] + 14 * [0])
    assert np.array_equal(output.numpy(), ((sums.astype(np.int32) << 2).astype(np.int64) * factors + (1 << 39)) >> 40)
