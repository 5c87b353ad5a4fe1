"""What the processor at hand can execute, as Linux tells it; asked before a module is loaded, never after a SIGILL.

Also a part of the `run.py` that is shipped with an artifact: standard library only, and the syntax of Python 3.8.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CPUINFO = "/proc/cpuinfo"
# `uname -m` of machines that are the same to a compiler.
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def this_machine() -> str:
    """`x86_64`, `aarch64`, or what else `uname -m` says."""
    name = platform.machine().lower()
    return MACHINES.get(name, name)


def read_cpuinfo(path: str = CPUINFO) -> str:
    """The text of /proc/cpuinfo; empty where there is none: then no feature is known to be there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
