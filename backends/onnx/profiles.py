"""Device profiles as data: how wide 8-bit weights may be, and which processors compute with the widest.

Also a part of the `run.py` that is shipped with an artifact: standard library only, and the syntax of Python 3.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from isobit.backends.device.processor import features, processor
from isobit.backends.device.replay import ON_DEVICE

# x86 without VNNI adds two products of 8 bits in a saturating int16: codes within this limit are exact after 8-bit
# inputs. VNNI's int32 sums and NEON's widening products do not saturate.
PAIR_LIMIT = 64
WIDE_LIMITS = {"generic": PAIR_LIMIT, "vnni": None, "arm64": None}
DEFAULT_PROFILE = "generic"
EXACT_FEATURES = {"x86_64": ("avx512_vnni", "avx_vnni")}  # by machine: one of them is enough; others need none
MADE_FOR = {"vnni": "x86_64", "arm64": "aarch64"}  # the machine of a profile; one that is not here runs on any


def why_untimed(profile: str, here: str) -> str:
    """Why a time of this machine, `here`, says nothing of a profile's devices; empty where it does."""
    machine = MADE_FOR.get(profile, here)
    return f"it is made for {machine}, and this machine is {here}; {ON_DEVICE}" if machine != here else ""


def why_inexact(profile: str, here: str, cpuinfo: str) -> str:
    """Why the weights of a device profile cannot be computed with on this processor; empty where they can.

    Args:
        profile: key of `WIDE_LIMITS`.
        here: `processor.this_machine()`.
        cpuinfo: `processor.read_cpuinfo()`; empty where the system does not tell, and then nothing is held against it.
    """
    needed = EXACT_FEATURES.get(here, ())
    present = features(cpuinfo)
    if WIDE_LIMITS[profile] is not None or not needed or not present or present.intersection(needed):
        return ""
    return (
        f"device profile '{profile}' uses the whole range of 8-bit weights, which needs {' or '.join(needed)} on "
        f"{here}; this processor ({processor(cpuinfo)}) has neither, and its 8-bit products saturate"
    )


def has_wide_weights(tensors: Iterable[Mapping[str, Any]]) -> bool:
    """Some weight of a manifest's tensor table has a grid beyond `PAIR_LIMIT`; codebooks lie in one of 8 bits."""
    return any(
        entry["kind"] == "weight"
        and (entry["channel_bits"] is not None or (1 << entry["bits"]) // (2 if entry["symmetric"] else 1) > PAIR_LIMIT)
        for entry in tensors
    )
