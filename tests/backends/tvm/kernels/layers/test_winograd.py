"""3 x 3 layers by Winograd's transforms: every code the oracle's, in maps that tiles do and do not fill."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.instructions.dotprod import Dotprod
from isobit.backends.tvm.kernels.layers.winograd import CODES, SUMS, WEIGHTS, winograd_set
from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.module import step_call
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm

CASES = {
    "even": oracle.make_conv((8, 8, 16), 16),
    "odd map, few channels": oracle.make_conv((7, 9, 10), 12, zero_points=(7, 5)),
    "two rows": oracle.make_conv((2, 21, 24), 40, bits=4, signed=False, low=1, high=15),
    "no padding": oracle.make_conv((11, 9, 20), 24, padding=(0, 0, 0, 0), zero_points=(200, 0)),
    "lopsided": oracle.make_conv((6, 6, 16), 16, padding=(2, 0, 0, 2), bits=3, zero_points=(3, 9)),
    "residual": oracle.make_conv((6, 6, 32), 32, residual_zero=9),
    "bytes": oracle.make_conv((8, 8, 32), 32, bits=4, largest=15),
    "bytes, odd map": oracle.make_conv((7, 9, 10), 12, zero_points=(7, 5), bits=4, signed=False, largest=15),
    "bytes, lopsided": oracle.make_conv((6, 6, 80), 16, padding=(2, 0, 0, 2), bits=3, zero_points=(3, 9), largest=15),
    "bytes, residual": oracle.make_conv((6, 6, 48), 32, residual_zero=9, bits=2, largest=63),
    "bytes, block by block": oracle.make_conv((6, 6, 400), 400, seed=3, bits=4, largest=15, high=15),
    "block by block": oracle.make_conv((7, 7, 144), 144, seed=3),
}


def used(program, flavour="avx2"):
    """The type of the weights that are multiplied; None where a layer is not transformed."""
    e = winograd_set(program.steps[-1], program, plan_places(program), instruction_set(flavour))
    return e and e.operand


@pytest.mark.parametrize("flavour", ["avx2", "vnni512", "vnni256"])
def test_every_code_is_the_oracles(flavour):
    harness.needs(flavour)
    cases = {name: program for name, program in CASES.items() if used(program, flavour)}
    by_bytes = {name for name in cases if used(cases[name], flavour) == "int8"}
    assert by_bytes == {name for name in CASES if "byte" in name}
    assert flavour != "avx2" or cases == CASES
    assert harness.differing(cases, flavour) == []


class Signed(Dotprod):
    """What `sdot` computes, of operations that every processor has."""

    def dot(self, sums, codes, code, weights, weight):
        vector = self.load(weights, weight, self.group * self.lanes)
        for i in range(self.group):
            factor = self.cast("int32", self.bits("int8", self.T.bitwise_xor(codes[code + i], self.T.uint8(0x80))))
            lanes = self.T.Shuffle([vector], [i + lane * self.group for lane in range(self.lanes)])
            sums = sums + self.cast(f"int32x{self.lanes}", lanes) * self.splat(factor)
        return sums


@pytest.mark.parametrize(("largest", "kind"), [(15, "int8"), (31, "int8"), (32, None), (63, None)])
def test_signed_bytes_hold_half_as_much(largest, kind):
    target = harness.needs("avx2")
    program = oracle.make_conv((8, 8, 32), 32, bits=4, largest=largest, high=15, zero_points=(3, 0))
    places = plan_places(program)
    assert used(program, "sdot") == kind
    call = step_call(program.steps[-1], program, places, Signed())
    kernel = harness.compile_kernels({"kernel": call}, target)["kernel"]
    for codes in (None, lambda shape: np.full(shape, largest, np.uint8)):
        assert harness._agrees(kernel, program, call, places, codes)


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
    assert used(program) == "int16" and used(program, "vnni512") is None
    assert not used(oracle.make_conv((8, 8, 16), 16, stride=(2, 2)))
    assert not used(oracle.make_conv((8, 8, 16), 16, groups=4))
    assert not used(oracle.make_conv((1, 8, 16), 16))
    assert not used(oracle.make_conv((4, 4, 16), 16))  # transforming the weights would cost more
    assert not used(oracle.make_conv((8, 8, 3), 16))


def test_sums_that_might_not_fit_are_not():
    harness.needs_tvm()
    program = oracle.make_conv((8, 8, 512), 16)
    weights = program.steps[0].weights.codes
    assert used(program)
    weights[...] = 127
    assert not used(program)
