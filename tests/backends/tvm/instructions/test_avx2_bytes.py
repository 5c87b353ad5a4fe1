"""Products of bytes on AVX2: which layers have them, and the ends of what 16 bits hold."""

import numpy as np
import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
POINT = {"kernel": (1, 1), "padding": (0, 0, 0, 0)}
NARROW = {"bits": 4, "largest": 15}


def instructions(program) -> set[str]:
    return harness.multiplications(harness.profile_assembly(program, "x86-64-v3"))


@pytest.mark.parametrize("program", [
    oracle.make_conv((8, 8, 32), 32, stride=(2, 2), **NARROW), oracle.make_conv((8, 8, 32), 32, **NARROW),
    oracle.make_conv((4, 4, 64), 32, bits=4, **POINT), oracle.make_conv((1, 1, 64), 10, logits=True, **NARROW, **POINT),
    oracle.make_conv((8, 8, 64), 64, groups=64, bits=6),
], ids=["strided", "transformed", "codes of 8 bits", "logits", "depthwise, of 32 bits"])
def test_small_products_are_of_bytes(program):
    assert instructions(program) == {"vpmaddubsw", "vpmaddwd"}


def test_small_products_of_a_depthwise_window_are_added_in_16_bits():
    assert instructions(oracle.make_conv((8, 8, 64), 64, groups=64, **NARROW)) == {"vpmaddubsw"}


def test_others_are_not():
    assert instructions(oracle.make_conv((8, 8, 32), 32, stride=(2, 2))) == {"vpmaddwd"}


def extreme(program, sign: int):
    """All weights at one end of their codes, or in turn at both where `sign` is 0."""
    codes, bits = program.steps[-1].weights.codes, program.steps[-1].weights.bits
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    turn = np.where(np.indices(codes.shape).sum(0) % 2, low, high)
    codes[...] = turn if sign == 0 else high if sign > 0 else low
    return program


@pytest.mark.parametrize("largest", [15, 63, 127, 255])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_no_sum_leaves_16_bits(largest, sign):
    shapes = {
        "point": {"source": (4, 4, 640), "filters": 16, **POINT},
        "strided": {"source": (5, 5, 48), "filters": 16, "stride": (2, 2)},
        "depthwise": {"source": (5, 5, 48), "filters": 48, "groups": 48},
        "transformed": {"source": (6, 6, 400), "filters": 16},
    }
    programs = {name: extreme(oracle.make_conv(**shape, bits=4, largest=largest, high=15), sign)
                for name, shape in shapes.items()}
    assert harness.differing(programs, "avx2", codes=lambda shape: np.full(shape, largest, np.uint8)) == []
