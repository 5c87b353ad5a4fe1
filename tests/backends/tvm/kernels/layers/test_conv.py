"""Convolutions and linear layers of every shape, in every instruction set that runs here, against the oracle."""

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
POINT = {"kernel": (1, 1), "padding": (0, 0, 0, 0)}

# Channel counts that fill no vector, strides, dilation, lopsided padding, zero points, narrow grids, packed weights.
CASES = {
    "plain": oracle.make_conv((8, 8, 16), 16),
    "few channels": oracle.make_conv((7, 9, 10), 12, zero_points=(7, 5)),
    "image": oracle.make_conv((11, 9, 3), 24, stride=(2, 2), zero_points=(114, 0)),
    "one channel": oracle.make_conv((12, 9, 1), 20, (5, 3), stride=(2, 2), padding=(2, 1, 2, 1), zero_points=(90, 0)),
    "one channel, wide": oracle.make_conv((5, 9, 1), 16, (2, 7), padding=(0, 3, 1, 3), bits=4),
    "strided": oracle.make_conv((8, 8, 24), 46, stride=(2, 2)),
    "point": oracle.make_conv((5, 5, 46), 64, zero_points=(128, 128), **POINT),
    "residual": oracle.make_conv((6, 6, 32), 32, residual_zero=9),
    "narrow residual": oracle.make_conv((8, 8, 16), 16, residual_zero=0, low=1, high=15),
    "lopsided": oracle.make_conv((6, 6, 16), 16, (4, 2), padding=(1, 0, 2, 1), dilation=(2, 1)),
    "groups": oracle.make_conv((6, 6, 48), 48, groups=2),
    "groups of ten": oracle.make_conv((6, 6, 40), 40, groups=4),
    "groups across vectors": oracle.make_conv((6, 6, 48), 72, groups=3, bits=4),
    "4 bits": oracle.make_conv((6, 6, 20), 40, bits=4, signed=False, high=15, low=2),
    "3 bits": oracle.make_conv((6, 6, 20), 40, bits=3, signed=False),
    "2 bits": oracle.make_conv((6, 6, 20), 24, bits=2),
    "logits": oracle.make_conv((1, 1, 64), 10, logits=True, **POINT),
    "packed logits": oracle.make_conv((1, 1, 70), 100, logits=True, bits=4, zero_points=(3, 0), **POINT),
    "small codes": oracle.make_conv((6, 6, 40), 24, bits=4, largest=15, zero_points=(7, 2)),
    "small codes, strided": oracle.make_conv((9, 7, 36), 24, stride=(2, 2), bits=4, largest=15),
    "small codes, groups": oracle.make_conv((6, 6, 40), 40, groups=4, bits=4, largest=15),
    "small codes, groups of twelve": oracle.make_conv((8, 8, 48), 96, groups=4, bits=4, largest=15),
    "small codes, groups of three": oracle.make_conv((4, 4, 96), 64, groups=32, bits=4, largest=15),
    "small weights, groups": oracle.make_conv((6, 6, 120), 48, groups=3, bits=4),
    "small codes, point": oracle.make_conv((5, 5, 160), 24, bits=4, largest=15, residual_zero=3, **POINT),
    "small weights": oracle.make_conv((5, 5, 160), 24, bits=4, zero_points=(99, 2), **POINT),
    "smaller weights": oracle.make_conv((6, 6, 20), 40, (5, 5), padding=(2, 2, 2, 2), bits=2),
    "small logits": oracle.make_conv((1, 1, 320), 10, logits=True, bits=4, largest=15, **POINT),
    "many": oracle.make_conv((9, 9, 64), 256),
}


@pytest.mark.parametrize("flavour", harness.NATIVE)
def test_every_code_is_the_oracles(flavour):
    assert harness.differing(CASES, flavour) == []


def test_kernels_of_equal_shape_differ_in_constants_only():
    from isobit.backends.tvm.instructions import instruction_set
    from isobit.backends.tvm.kernels.layers.conv import conv_call
    from isobit.backends.tvm.kernels.layout import plan_places

    harness.needs_tvm()
    from tvm_ffi import structural_equal

    programs = [oracle.make_conv((6, 6, 16), 16, seed=seed) for seed in (1, 2)]
    one, other = (
        conv_call(program.steps[0], program, plan_places(program), instruction_set("lanes")) for program in programs
    )
    assert structural_equal(one.kernel, other.kernel)
    assert (one.constants[0] != other.constants[0]).any()
