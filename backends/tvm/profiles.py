"""Device profiles as data: what code is generated for, which processor features it needs, who compiles and emulates it.

A profile names the instructions that kernels may use, not a product: a module runs on every processor that has the
features of its profile, and `native` is the best profile of the machine that builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from isobit.backends.device.processor import best_profile, features, processor, read_cpuinfo, this_machine
from isobit.pipeline.errors import TargetError, nearest_spelling
from isobit.pipeline.target import Note

Flavour = Literal["vnni512", "vnni256", "avx2", "lanes", "sdot", "usdot"]
# Bits of every weight of a depthwise convolution, which has kernels of its own (`instructions.x86.X86.taps`). On AVX2
# at most: where products are of bytes, as of few bits, it takes 8.
DEPTHWISE_BITS: dict[Flavour, int] = {"vnni512": 8, "vnni256": 8, "avx2": 16, "sdot": 8, "usdot": 8, "lanes": 8}
NOTES: dict[Flavour, tuple[Note, ...]] = {"avx2": (Note(
    "without VNNI, products of 8-bit activations and 8-bit weights seldom fit 16 bits: `recipe.weights.bits=7` keeps "
    "weight codes within +-64 and is faster, fewer bits are faster still", both_from=8),)}
NATIVE = "native"
EMULATOR_PACKAGE = "qemu-user"


@dataclass(frozen=True)
class Machine:
    """A processor architecture under Linux, with the Debian packages that build and run its programs elsewhere.

    Args:
        name: as `uname -m` says it.
        triple: GNU triple; also begins the names of the cross tools, and names their folder below /usr.
        elf: `e_machine` of its ELF files.
        cross_package: Debian package of the cross compiler `<triple>-g++`.
    """

    name: str
    triple: str
    elf: int
    cross_package: str

    @property
    def emulator(self) -> str:
        """User-mode emulator."""
        return f"qemu-{self.name}"

    @property
    def cross_compiler(self) -> str:
        """C++ compiler for this machine on any other."""
        return f"{self.triple}-g++"

    @property
    def wheels(self) -> tuple[str, ...]:
        """Platform tags of the published runtimes: they need glibc 2.27, and their names have changed with releases."""
        return tuple(f"manylinux_2_{minor}_{self.name}" for minor in (17, 24, 27, 28))

    @property
    def libraries(self) -> str:
        """Where a cross compiler's package puts the C and C++ libraries that an emulated program loads."""
        return f"/usr/{self.triple}"


@dataclass(frozen=True)
class DeviceProfile:
    """One entry.

    Args:
        name: what a user calls it: `x86-64-vnni`.
        machine: architecture.
        flavour: which kernels are generated: 8-bit products summed in fours by `vpdpbusd` (vnni512, vnni256),
            `sdot`, or `usdot`; int16 pairs by `vpmaddwd` (avx2); or widened lanes that the compiler vectorises (lanes).
        features: what the processor must have, as /proc/cpuinfo names it.
        mcpu: LLVM's processor.
        mattr: LLVM's features on top of it.
        emulated: processor model of the emulator that has these features and as little more as there is; None where
            the emulator has none.
    """

    name: str
    machine: Machine
    flavour: Flavour
    features: tuple[str, ...]
    mcpu: str
    mattr: tuple[str, ...]
    emulated: str | None

    def llvm_target(self, threads: int = 1) -> dict[str, Any]:
        """TVM's description of the target, for `tvm.target.Target`."""
        target: dict[str, Any] = {
            "kind": "llvm", "mtriple": self.machine.triple, "mcpu": self.mcpu, "num-cores": threads,
        }
        return {**target, "mattr": list(self.mattr)} if self.mattr else target


X86_64 = Machine("x86_64", "x86_64-linux-gnu", 62, "g++-x86-64-linux-gnu")
AARCH64 = Machine("aarch64", "aarch64-linux-gnu", 183, "g++-aarch64-linux-gnu")

# What LLVM may emit for x86-64-v3 beyond what every processor with AVX2 has.
_V3 = ("avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

# Of one machine the best comes first: `native` takes the first that the processor can run.
PROFILES: dict[str, DeviceProfile] = {
    profile.name: profile
    for profile in (
        DeviceProfile(
            "x86-64-vnni", X86_64, "vnni512", ("avx512_vnni", *_V4, *_V3), "x86-64-v4", ("+avx512vnni",), None
        ),
        DeviceProfile("x86-64-avxvnni", X86_64, "vnni256", ("avx_vnni", *_V3), "x86-64-v3", ("+avxvnni",), None),
        DeviceProfile("x86-64-v3", X86_64, "avx2", _V3, "x86-64-v3", (), "max"),
        DeviceProfile(
            "aarch64-i8mm", AARCH64, "usdot", ("i8mm", "asimddp", "asimd"), "generic",
            ("+neon", "+dotprod", "+i8mm"), "max",
        ),
        DeviceProfile(
            "aarch64-dotprod", AARCH64, "sdot", ("asimddp", "asimd"), "generic", ("+neon", "+dotprod"), "neoverse-n1"
        ),
        DeviceProfile("aarch64", AARCH64, "lanes", ("asimd",), "generic", ("+neon",), "cortex-a53"),
    )
}
# `native` is the default: an artifact runs, and is proven, where it is built unless something else is asked for.
NAMES = (NATIVE, *PROFILES)


def profiles_of(machine: str) -> dict[str, tuple[str, ...]]:
    """Features required by each profile of a machine, the best profile first."""
    return {name: profile.features for name, profile in PROFILES.items() if profile.machine.name == machine}


def resolve(name: str, machine: str | None = None, cpuinfo: str | None = None) -> DeviceProfile:
    """The entry called `name`; `native` is the best one that this machine can run.

    Args:
        name: one of `NAMES`.
        machine: instead of this machine's `uname -m`.
        cpuinfo: instead of the text of /proc/cpuinfo.

    Raises:
        TargetError: no such profile, or `native` on a processor that fits none.
    """
    if name in PROFILES:
        return PROFILES[name]
    if name != NATIVE:
        raise TargetError(
            f"target 'tvm' has no device profile '{name}'", allowed=", ".join(NAMES), field="options.profile",
            hint=nearest_spelling(name, NAMES),
        )
    machine = this_machine() if machine is None else machine
    cpuinfo = read_cpuinfo() if cpuinfo is None else cpuinfo
    entries = profiles_of(machine)
    best = best_profile(entries, features(cpuinfo))
    if best is not None:
        return PROFILES[best]
    least = f"at least {', '.join(list(entries.values())[-1])}" if entries else "x86_64 or aarch64"
    raise TargetError(
        f"no device profile fits this processor: {machine}, {processor(cpuinfo)}", where="`options.profile=native`",
        field="options.profile",
        allowed=least, hint=f"Name the profile of the device to build for: {', '.join(PROFILES)}",
    )
