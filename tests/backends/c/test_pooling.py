"""Reductions, uneven pools and tables as C, compiled, against the oracle."""

import numpy as np
import pytest

from isobit.backends.fixed_point.operators.steps import Extreme, Reduce, Resample, Taps
from isobit.backends.fixed_point.program import Dequantize, Program
from tests.backends.c.compiled import assert_exact, needs_gcc
from tests.backends.fixed_point import oracle

MAP = (4, 5, 6)


def program(step, out, zeros=(9, 4)):
    buffers = (oracle.make_buffer("x", MAP, zeros[0]), oracle.make_buffer("y", out, zeros[1]))
    return Program(buffers, (step, Dequantize("logits", "", (1,), None)), (out[2], out[0], out[1]))


def reduced(out, follows, largest=None):
    rescale = oracle.make_rescale_of([0.02], [255 * 120], 4) if largest is None else None
    return program(Reduce("y", "", (0,), 1, follows, rescale, bool(largest), 5, 200), out)


ROWS = Taps(np.array([0, 1, 2], np.int32), np.array([[128, 0], [64, 64], [1, 127]], np.int32))
COLUMNS = Taps(np.array([0, 2], np.int32), np.array([[1, 1, 1], [1, 1, 0]], np.int32))
RESCALES = {
    384: oracle.make_rescale_of([1 / 300], [255 * 384], 4), 256: oracle.make_rescale_of([1 / 200], [255 * 384], 4),
}
CASES = {
    "channels": reduced((4, 5, 1), (0, 1, -1)), "channels turned": reduced((1, 5, 4), (-1, 1, 0)),
    "rows": reduced((1, 5, 6), (-1, 1, 2)), "everything": reduced((1, 1, 1), (-1, -1, -1)),
    "largest": reduced((1, 5, 4), (-1, 1, 0), True), "smallest": reduced((1, 1, 6), (-1, -1, 2), False),
    "resampled": program(Resample("y", "", (0,), 1, ROWS, COLUMNS, np.array([[384, 256]] * 3), RESCALES, 3, 250),
                         (3, 2, 6)),
    "smaller of two": program(Extreme("y", "", (0, 0), 1, (
        oracle.make_rescale_of([0.7], [255], 4), oracle.make_rescale_of([0.4], [255], 4)), False, 2, 99), MAP),
}


@needs_gcc
@pytest.mark.parametrize("name", CASES)
def test_every_code_is_the_oracles(name, tmp_path):
    assert_exact(CASES[name], tmp_path)
