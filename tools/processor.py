"""What the machine calls its processor; the standard library alone."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name(description: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the model, or of the architecture where the system does not say."""
    try:
        lines = description.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
