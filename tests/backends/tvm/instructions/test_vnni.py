"""The instructions that LLVM makes of kernels for AVX-512 VNNI and AVX-VNNI."""

import re

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
LAYER = oracle.make_conv((8, 8, 32), 32)
DEPTHWISE = oracle.make_conv((8, 8, 64), 64, groups=64)


PROFILES = ("x86-64-vnni", "x86-64-avxvnni")


def assembly(program, profile=PROFILES[0]) -> str:
    return harness.profile_assembly(program, profile)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("program", [LAYER, DEPTHWISE])
def test_products_are_of_bytes_in_fours(program, profile):
    assert harness.multiplications(assembly(program, profile)) == {"vpdpbusd"}


@pytest.mark.parametrize("program", [LAYER, DEPTHWISE, oracle.make_conv((8, 8, 32), 32, bits=4, largest=15)])
def test_avx_takes_nothing_of_avx512(program):
    text = assembly(program, "x86-64-avxvnni")
    assert len(re.findall(r"\{vex\}\s+vpdpbusd", text)) == text.count("vpdpbusd") > 0
    assert not re.search(r"%zmm|%[xy]mm(1[6-9]|[23]\d)|%k\d", text)


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


@pytest.mark.parametrize(("profile", "register"), [*zip(PROFILES, ("zmm", "ymm"), strict=True)])
@pytest.mark.parametrize("program", [oracle.make_conv((16, 16, 64), 64), DEPTHWISE])
def test_sums_stay_in_registers(program, profile, register):
    text = assembly(program, profile)
    body = text[text.index("vpdpbusd"):text.rindex("vpdpbusd")]
    assert not re.search(rf"vmov\w+\s+%{register}\d+, -?\d*\(%rsp", body)
