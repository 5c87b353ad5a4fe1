"""The instructions that LLVM makes of kernels: dot products where the processor has them, cheap requantization."""

import re

import pytest

from backends.tvm_int8.expressions import FLAVOURS, expressions
from backends.tvm_int8.layout import plan_places
from backends.tvm_int8.module import step_call
from backends.tvm_int8.profiles import PROFILES
from tests.backends.fixed_point import oracle
from tests.backends.tvm_int8 import harness

pytestmark = pytest.mark.tvm
LAYER = oracle.make_conv((8, 8, 32), 32)
DEPTHWISE = oracle.make_conv((8, 8, 64), 64, groups=64)
USED = {
    "x86-64-vnni": {"vpdpbusd"}, "x86-64-v3": {"vpmaddwd"}, "aarch64-i8mm": {"usdot"}, "aarch64-dotprod": {"sdot"},
    "aarch64": {"smlal"},
}
MULTIPLIES = r"\b(vpdpbusd|vpmaddwd|vpmaddubsw|usdot|sdot|udot|smlal)2?\b"


def assembly(program, name: str) -> str:
    harness.needs_tvm()
    profile = PROFILES[name]
    call = step_call(program.steps[0], program, plan_places(program), expressions(profile.flavour))
    return harness.assembly(call, profile.flavour, profile.llvm_target())


@pytest.mark.parametrize("name", PROFILES)
def test_dot_products_are_the_profiles(name):
    assert set(re.findall(MULTIPLIES, assembly(LAYER, name))) == USED[name]


@pytest.mark.parametrize("name", ["x86-64-vnni", "x86-64-v3"])
def test_depthwise_layers_use_dot_products_too(name):
    text = assembly(DEPTHWISE, name)
    assert set(re.findall(MULTIPLIES, text)) == USED[name]
    assert "vpunpcklbw" in text


def test_requantization_takes_two_multiplications_and_one_permutation():
    text = assembly(LAYER, "x86-64-vnni")
    # 64-bit products of 32-bit lanes; LLVM would take the slow vpmullq if it could not see that lanes are narrow.
    assert "vpmullq" not in text
    vectors = text.count("vpsravd")
    assert vectors > 0
    assert text.count("vpmuldq") == 2 * vectors
    assert text.count("vpackuswb") == -(-vectors // 4)


@pytest.mark.parametrize("program", [LAYER, DEPTHWISE])
def test_requantization_stays_cheap_in_loops(program):
    # LLVM moves what it can of a multiplier out of a loop; if it then no longer sees that lanes are narrow, it
    # multiplies in three unsigned steps.
    text = assembly(program, "x86-64-v3")
    assert "vpmuldq" in text
    assert "vpmuludq" not in text


def test_sums_stay_in_registers():
    text = assembly(oracle.make_conv((16, 16, 64), 64), "x86-64-vnni")
    body = text[text.index("vpdpbusd"):text.rindex("vpdpbusd")]
    assert not re.search(r"vmov\w+\s+%zmm\d+, -?\d*\(%rsp", body)


def test_flavours_are_those_of_the_profiles():
    assert set(FLAVOURS) == {profile.flavour for profile in PROFILES.values()}
