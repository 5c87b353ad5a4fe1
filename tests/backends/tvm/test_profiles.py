"""The table of device profiles: order, consistency, TVM accepts every entry, `native` becomes one of them."""

from itertools import pairwise

import numpy as np
import pytest

from isobit.backends.tvm import TvmBackend
from isobit.backends.tvm.device import toolchain
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.instructions.x86 import X86
from isobit.backends.tvm.profiles import (
    AARCH64,
    DEPTHWISE_BITS,
    NAMES,
    NATIVE,
    PROFILES,
    X86_64,
    profiles_of,
    resolve,
)
from isobit.pipeline.errors import TargetError

V3 = "model name : Some PC\nflags : avx2 bmi1 bmi2 f16c fma abm movbe\n"


def test_native_is_the_default_and_every_name_resolves():
    assert NAMES[0] == NATIVE and set(NAMES[1:]) == set(PROFILES)
    assert all(resolve(name) is profile and profile.name == name for name, profile in PROFILES.items())


@pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)
def test_better_profiles_come_first_and_need_more(machine):
    entries = [set(required) for required in profiles_of(machine.name).values()]
    assert len(entries) >= 2
    # What a better profile needs may not be in a worse one's place: AVX-512's VNNI and AVX's are features of their own.
    assert all(better > entries[-1] and not better <= other for better, other in pairwise(entries))


def test_profiles_of_one_machine_have_kernels_of_their_own():
    for machine in (X86_64, AARCH64):
        flavours = [profile.flavour for profile in PROFILES.values() if profile.machine is machine]
        assert len(set(flavours)) == len(flavours)


def test_cross_tools_follow_from_the_triple():
    assert AARCH64.cross_compiler == "aarch64-linux-gnu-g++" and AARCH64.libraries == "/usr/aarch64-linux-gnu"
    assert AARCH64.emulator == "qemu-aarch64" and X86_64.cross_package == "g++-x86-64-linux-gnu"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "name"),
    [("x86_64", V3, "x86-64-v3"), ("aarch64", "Features : fp asimd asimddp\n", "aarch64-dotprod")],
)
def test_native_becomes_the_best_entry_of_the_machine(machine, cpuinfo, name):
    assert resolve(NATIVE, machine, cpuinfo) is PROFILES[name]


def test_native_on_a_machine_that_fits_none_says_what_would():
    with pytest.raises(TargetError, match=r"x86_64, Old(.|\n)*at least avx2, bmi1(.|\n)*x86-64-v3"):
        resolve(NATIVE, "x86_64", "model name : Old\nflags : sse2\n")
    with pytest.raises(TargetError, match=r"riscv64(.|\n)*x86_64 or aarch64"):
        resolve(NATIVE, "riscv64", "")


def test_unknown_profile_names_the_nearest():
    with pytest.raises(TargetError, match="Did you mean 'aarch64-dotprod'"):
        resolve("aarch64-dot")


@pytest.mark.tvm
@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_tvm_accepts_the_target(profile):
    target = pytest.importorskip("tvm", reason="the TVM packages are not installed").target.Target
    made = target(profile.llvm_target(threads=2))
    assert made.kind.name == "llvm" and int(made.attrs["num-cores"]) == 2
    assert str(made.attrs["mtriple"]) == profile.machine.triple


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_weights_of_depthwise_layers_take_what_their_kernels_read(profile):
    e = instruction_set(profile.flavour)
    expected = 8 * np.dtype(e.taps).itemsize if isinstance(e, X86) else 8
    assert DEPTHWISE_BITS.get(profile.flavour) == expected


@pytest.mark.parametrize(("profile", "bits", "said"), [
    ("x86-64-v3", (8, 8), True), ("x86-64-v3", (7, 8), False), ("x86-64-v3", (8, 4), False),
    ("x86-64-vnni", (8, 8), False), ("aarch64", (8, 8), False),
])
def test_products_that_need_32_bits_are_spoken_of_where_they_cost_time(monkeypatch, profile, bits, said):
    monkeypatch.setattr(toolchain, "check", lambda chosen: None)
    notes = TvmBackend().target(profile).notes_for(*bits)
    assert any("`recipe.weights.bits=7`" in note for note in notes) == said
