"""Depthwise convolutions: one chunk, several, one that overlaps another; rows that end with the map."""

import pytest

from isobit.backends.tvm.kernels.layers.depthwise import is_depthwise
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm

CASES = {
    "one vector": oracle.make_conv((7, 7, 24), 24, groups=24),
    "zero points": oracle.make_conv((7, 7, 64), 64, groups=64, zero_points=(7, 9), low=3, high=100),
    "overlapping": oracle.make_conv((9, 8, 144), 144, stride=(2, 2), groups=144),
    "wide kernel": oracle.make_conv((9, 8, 16), 16, (5, 5), stride=(2, 1), padding=(2, 2, 2, 2), groups=16),
    "dilated": oracle.make_conv((9, 8, 48), 48, (3, 2), dilation=(2, 2), groups=48),
    "small codes": oracle.make_conv((7, 9, 64), 64, groups=64, zero_points=(7, 9), bits=4, largest=15, high=15),
    "small codes, strided": oracle.make_conv((9, 8, 40), 40, (5, 6), stride=(2, 1), groups=40, bits=4, largest=15),
    "small weights": oracle.make_conv((9, 8, 48), 48, groups=48, bits=4, zero_points=(99, 9)),
    "half as small": oracle.make_conv((9, 8, 48), 48, (9, 9), padding=(4, 4, 4, 4), groups=48, bits=4),
    "small codes, tall": oracle.make_conv((25, 5, 32), 32, groups=32, bits=4, largest=15),
    "one row": oracle.make_conv((1, 5, 16), 16, groups=16, bits=4),
}


@pytest.mark.parametrize("flavour", ["vnni512", "vnni256", "avx2"])
def test_every_code_is_the_oracles(flavour):
    assert harness.differing(CASES, flavour) == []


def test_what_is_depthwise():
    assert is_depthwise(CASES["dilated"].steps[0])
    assert not is_depthwise(oracle.make_conv((3, 3, 8), 16, groups=8).steps[0])
    assert not is_depthwise(oracle.make_conv((3, 3, 8), 8, groups=8, residual_zero=0).steps[0])
