"""What the machine calls its processor."""

from __future__ import annotations

from isobit.backends.device.processor import processor, read_cpuinfo


def cpu_name() -> str:
    """The name of the model, or of the architecture where the system does not say."""
    return processor(read_cpuinfo())
