"""The instructions that LLVM makes of kernels for AVX-512 VNNI."""

import re

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
LAYER = oracle.make_conv((8, 8, 32), 32)
DEPTHWISE = oracle.make_conv((8, 8, 64), 64, groups=64)


def assembly(program) -> str:
    return harness.profile_assembly(program, "x86-64-vnni")


@pytest.mark.parametrize("program", [LAYER, DEPTHWISE])
def test_products_are_of_bytes_in_fours(program):
    assert harness.multiplications(assembly(program)) == {"vpdpbusd"}


def test_pixels_of_depthwise_layers_are_interleaved():
    assert "vpunpcklbw" in assembly(DEPTHWISE)


def test_requantization_takes_two_multiplications_and_one_permutation():
    text = assembly(LAYER)
    # 64-bit products of 32-bit lanes; LLVM would take the slow vpmullq if it could not see that lanes are narrow.
    assert "vpmullq" not in text
    vectors = text.count("vpsravd")
    assert vectors > 0
    assert text.count("vpmuldq") == 2 * vectors
    assert text.count("vpackuswb") == -(-vectors // 4)


def test_sums_stay_in_registers():
    text = assembly(oracle.make_conv((16, 16, 64), 64))
    body = text[text.index("vpdpbusd"):text.rindex("vpdpbusd")]
    assert not re.search(r"vmov\w+\s+%zmm\d+, -?\d*\(%rsp", body)
