"""Numbers of a kernel in one constant."""

import numpy as np

from isobit.backends.tvm.kernels.parameters import ALIGNMENT, Parameters


def test_vectors_start_at_cache_lines_and_are_padded():
    numbers = Parameters()
    assert [numbers.add([1, -2, 3]), numbers.add(np.arange(17), 20), numbers.splat(7)] == [0, 16, 48]
    array = numbers.array
    assert array.dtype == np.int32
    assert array[:4].tolist() == [1, -2, 3, 0]
    assert array[32:36].tolist() == [16, 0, 0, 0]
    assert set(array[48:]) == {7}


def test_bits_of_floats_and_bytes_are_kept():
    numbers = Parameters()
    numbers.add(np.array([1.5], np.float32))
    numbers.splat_byte(200)
    assert numbers.array[:1].view(np.float32)[0] == 1.5
    assert set(numbers.array[ALIGNMENT:].view(np.uint8)) == {200}


def test_no_numbers_are_a_constant_all_the_same():
    assert Parameters().array.shape == (ALIGNMENT,)
