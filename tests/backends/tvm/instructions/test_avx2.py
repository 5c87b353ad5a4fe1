"""The instructions that LLVM makes of kernels for AVX2."""

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
LAYER = oracle.make_conv((8, 8, 32), 32)
DEPTHWISE = oracle.make_conv((8, 8, 64), 64, groups=64)


def assembly(program) -> str:
    return harness.profile_assembly(program, "x86-64-v3")


@pytest.mark.parametrize("program", [LAYER, DEPTHWISE])
def test_products_are_of_int16_in_pairs(program):
    assert harness.multiplications(assembly(program)) == {"vpmaddwd"}


def test_pixels_of_depthwise_layers_are_interleaved():
    assert "vpunpcklbw" in assembly(DEPTHWISE)


@pytest.mark.parametrize("program", [LAYER, DEPTHWISE])
def test_requantization_stays_cheap_in_loops(program):
    # LLVM moves what it can of a multiplier out of a loop; if it then no longer sees that lanes are narrow, it
    # multiplies in three unsigned steps.
    text = assembly(program)
    assert "vpmuldq" in text
    assert "vpmuludq" not in text
