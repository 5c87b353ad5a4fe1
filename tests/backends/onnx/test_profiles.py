"""Which processors compute with whole 8-bit weights, and what the others are told."""

import ast

import pytest

from isobit.backends.onnx import profiles
from isobit.backends.onnx.profiles import (
    DEFAULT_PROFILE,
    MADE_FOR,
    WIDE_LIMITS,
    has_wide_weights,
    why_inexact,
    why_untimed,
)
from tests.backends.device.test_processor import CORTEX_A53, HASWELL

VNNI = {name: HASWELL.replace(" avx2 ", f" avx2 {name} ") for name in ("avx512_vnni", "avx_vnni")}


@pytest.mark.parametrize("profile", ["vnni", "arm64"])
def test_a_processor_that_saturates_is_named_with_what_it_lacks(profile):
    reason = why_inexact(profile, "x86_64", HASWELL)
    assert f"'{profile}'" in reason and "avx512_vnni or avx_vnni" in reason and "i7-4770" in reason


@pytest.mark.parametrize(
    ("profile", "machine", "cpuinfo"),
    [
        ("generic", "x86_64", HASWELL),
        ("vnni", "x86_64", VNNI["avx512_vnni"]),
        ("arm64", "x86_64", VNNI["avx_vnni"]),
        ("vnni", "x86_64", ""),
        ("vnni", "aarch64", CORTEX_A53),
        ("arm64", "aarch64", CORTEX_A53),
    ],
)
def test_who_computes_exactly_or_does_not_tell_is_not_refused(profile, machine, cpuinfo):
    assert why_inexact(profile, machine, cpuinfo) == ""


@pytest.mark.parametrize(("profile", "machine", "runs_on"), [
    ("generic", "x86_64", True), ("generic", "aarch64", True), ("generic", "riscv64", True),
    ("vnni", "x86_64", True), ("vnni", "aarch64", False), ("arm64", "aarch64", True), ("arm64", "x86_64", False),
])
def test_times_are_those_of_the_profile_s_machine(profile, machine, runs_on):
    reason = why_untimed(profile, machine)
    assert (reason == "") is runs_on
    assert runs_on or f"this machine is {machine}; `run.py --bench` measures it on the device" in reason


def test_every_profile_but_the_default_is_made_for_a_machine():
    assert set(MADE_FOR) == set(WIDE_LIMITS) - {DEFAULT_PROFILE}


@pytest.mark.parametrize(
    ("bits", "symmetric", "channel_bits", "wide"),
    [
        (8, True, None, True), (7, True, None, False), (7, False, None, True), (6, False, None, False),
        (2.5, True, [2, 3], True),
    ],
)
def test_weights_are_wide_where_two_products_may_saturate(bits, symmetric, channel_bits, wide):
    weight = {"kind": "weight", "bits": bits, "symmetric": symmetric, "channel_bits": channel_bits}
    others = [{**weight, "kind": "activation", "bits": 8}, {**weight, "kind": "bias", "bits": 32}]
    assert has_wide_weights([*others, weight]) is wide and not has_wide_weights(others)


def test_the_syntax_is_that_of_python_3_8():
    with open(profiles.__file__) as file:
        ast.parse(file.read(), feature_version=(3, 8))
