"""What the processor at hand can execute, as Linux tells it; asked before a module is loaded, never after a SIGILL.

Also a part of every `run.py` that asks: standard library only, and the syntax of Python 3.8.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CPUINFO = "/proc/cpuinfo"
# `uname -m` of machines that are the same to a compiler.
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}

# Arm feature -> entry of the auxiliary vector (AT_HWCAP, AT_HWCAP2) and bit.
AUXILIARY = {"asimd": (16, 1), "asimddp": (16, 20), "i8mm": (26, 13)}
# x86 feature -> glibc's number of the CPUID leaf (sys/platform/x86.h), register (eax, ebx, ecx, edx), bit.
CPUID = {
    "fma": (0, 2, 12), "movbe": (0, 2, 22), "f16c": (0, 2, 29), "bmi1": (1, 1, 3), "avx2": (1, 1, 5), "bmi2": (1, 1, 8),
    "avx512f": (1, 1, 16), "avx512dq": (1, 1, 17), "avx512cd": (1, 1, 28), "avx512bw": (1, 1, 30),
    "avx512vl": (1, 1, 31), "avx512_vnni": (1, 2, 11), "abm": (2, 2, 5), "avx_vnni": (6, 0, 4),
}
# Features by which kernels for few bits differ.
DECIDING = ("avx2", "avx_vnni", "avx512_vnni", "asimd", "asimddp", "i8mm")


def this_machine() -> str:
    """`x86_64`, `aarch64`, or what else `uname -m` says."""
    name = platform.machine().lower()
    return MACHINES.get(name, name)


def read_cpuinfo(path: str = CPUINFO) -> str:
    """The text of /proc/cpuinfo; empty where there is none: then no feature is known to be there.

    An emulator (a container of another machine, or of another generation) shows the host's file. On Arm that is seen,
    and the features come from the kernel's auxiliary vector, which the emulator does provide; on x86 those are struck
    out that the processor denies.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if this_machine() == "aarch64" and not re.search("^Features", text, re.MULTILINE):
        return "Features : " + " ".join(auxiliary_features()) + "\n"
    denied = denied_features()
    return re.sub("^flags.*$", lambda line: _without(line.group(), denied), text, flags=re.MULTILINE)


def denied_features() -> frozenset[str]:
    """x86 features of our profiles that this program may not use, as the C library found out; none where it is old."""
    leaf = _cpuid()
    if leaf is None:
        return frozenset()
    leaf.argtypes, leaf.restype = [ctypes.c_uint], ctypes.POINTER(ctypes.c_uint)
    active = 4  # after the four registers as CPUID gives them: what the system lets programs use
    return frozenset(
        name for name, (number, register, bit) in CPUID.items() if not leaf(number)[active + register] >> bit & 1
    )


def _cpuid() -> Any:
    """The function of glibc 2.33 and newer that asks an x86 processor; None elsewhere."""
    try:
        return getattr(ctypes.CDLL(None), "__x86_get_cpuid_feature_leaf", None)
    except (OSError, TypeError):  # a system without such a C library
        return None


def _without(line: str, words: frozenset[str]) -> str:
    return " ".join(word for word in line.split(" ") if word not in words)


def auxiliary_features() -> list[str]:
    """Arm features of our profiles that the kernel tells every program."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return [name for name, (entry, bit) in AUXILIARY.items() if getauxval(entry) >> bit & 1]


def features(cpuinfo: str) -> frozenset[str]:
    """Features that every core has: the `flags` of x86, the `Features` of Arm. Cores of one chip may differ."""
    lists = re.findall(r"^(?:flags|Features)[ \t]*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset.intersection(*(frozenset(line.split()) for line in lists)) if lists else frozenset()


def processor(cpuinfo: str) -> str:
    """The processor's name for people; Arm kernels often give numbers only."""
    for field in ("model name", "Model", "Hardware"):
        found = re.search(r"^" + field + r"[ \t]*:[ \t]*(\S.*)$", cpuinfo, re.MULTILINE)
        if found:
            return found.group(1).strip()
    numbers = re.findall(r"^CPU (implementer|part)[ \t]*:[ \t]*(\S+)", cpuinfo, re.MULTILINE)[:2]
    return "CPU " + ", ".join(" ".join(pair) for pair in numbers) if numbers else platform.machine()


def description(cpuinfo: str) -> str:
    """The processor's name, and which instructions it has that decide how fast integers are."""
    known = [name for name in DECIDING if name in features(cpuinfo)]
    return processor(cpuinfo) + (" (" + ", ".join(known) + ")" if known else "")


def best_profile(profiles: Mapping[str, Iterable[str]], present: frozenset[str]) -> str | None:
    """The first of `profiles` (name -> features it requires, best first) that runs with the features `present`."""
    return next((name for name, required in profiles.items() if present.issuperset(required)), None)


def why_not(
    machine: str, required: Iterable[str], profiles: Mapping[str, Sequence[str]], here: str, cpuinfo: str
) -> str:
    """Why a module cannot run here, and what can; empty where it can.

    Args:
        machine: that the module is for.
        required: features that it uses, as /proc/cpuinfo names them.
        profiles: features by profile of that machine, the best profile and a profile's own feature first.
        here: `this_machine()`.
        cpuinfo: text of /proc/cpuinfo.
    """
    if here != machine:
        return "this module is for " + machine + "; this machine is " + here
    present = features(cpuinfo)
    lacking = [name for name in required if name not in present]
    if not lacking:
        return ""
    fitting = best_profile(profiles, present)
    return "this module needs {}; this processor ({}) has {}not {}: {}".format(
        ", ".join(lacking),
        processor(cpuinfo),
        profiles[fitting][0] + ", " if fitting else "",
        lacking[0],
        "build with --device-profile " + fitting if fitting else "no device profile fits it",
    )
