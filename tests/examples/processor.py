"""Which device profiles of ONNX Runtime the processor at hand computes exactly, for tests of more than the default."""

import pytest

from isobit.backends.device.processor import read_cpuinfo, this_machine
from isobit.backends.onnx.profiles import DEFAULT_PROFILE, why_inexact

_WHY_NOT = why_inexact("vnni", this_machine(), read_cpuinfo())

needs_vnni = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
EVERY_X86 = [DEFAULT_PROFILE, pytest.param("vnni", marks=needs_vnni)]
