"""3 x 3 layers by Winograd's transforms: every code the oracle's, in maps that tiles do and do not fill."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.kernels.winograd import CODES, SUMS, WEIGHTS, is_winograd
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm

CASES = {
    "even": oracle.make_conv((8, 8, 16), 16),
    "odd map, few channels": oracle.make_conv((7, 9, 10), 12, zero_points=(7, 5)),
    "two rows": oracle.make_conv((2, 3, 24), 40, bits=4, signed=False, low=1, high=15),
    "no padding": oracle.make_conv((7, 6, 20), 24, padding=(0, 0, 0, 0), zero_points=(200, 0)),
    "lopsided": oracle.make_conv((6, 6, 16), 16, padding=(2, 0, 0, 2), bits=3, zero_points=(3, 9)),
    "residual": oracle.make_conv((6, 6, 32), 32, residual_zero=9),
    "block by block": oracle.make_conv((4, 4, 144), 144, seed=3),
}


def used(program) -> bool:
    return is_winograd(program.steps[0], program, plan_places(program), instruction_set("avx2"))


def test_every_code_is_the_oracles():
    harness.needs("avx2")
    assert all(used(program) for program in CASES.values())
    assert harness.differing(CASES, "avx2") == []


def test_the_transforms_are_four_times_a_convolution():
    random = np.random.default_rng(0)
    codes, weights = random.integers(0, 256, (4, 4)), random.integers(-128, 128, (3, 3))
    b, g, a = (np.array(rows) for rows in (CODES, WEIGHTS, SUMS))
    got = a @ ((g @ weights @ g.T) * (b @ codes @ b.T)) @ a.T
    wanted = [[(codes[y:y + 3, x:x + 3] * weights).sum() for x in range(2)] for y in range(2)]
    assert np.array_equal(got, 4 * np.array(wanted))


def test_what_is_transformed():
    harness.needs_tvm()
    program = CASES["even"]
    assert not is_winograd(program.steps[0], program, plan_places(program), instruction_set("vnni512"))
    assert not used(oracle.make_conv((8, 8, 16), 16, stride=(2, 2)))
    assert not used(oracle.make_conv((8, 8, 16), 16, groups=4))
    assert not used(oracle.make_conv((1, 8, 16), 16))
    assert not used(oracle.make_conv((8, 8, 3), 16))


def test_sums_that_might_not_fit_are_not():
    harness.needs_tvm()
    program = oracle.make_conv((4, 4, 512), 16)
    weights = program.steps[0].weights.codes
    assert used(program)
    weights[...] = 127
    assert not used(program)
