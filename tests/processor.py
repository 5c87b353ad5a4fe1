"""Which device profiles of ONNX Runtime the processor at hand computes exactly, for tests of more than the default."""

import pytest

from backends.onnx_qdq.profiles import DEFAULT_PROFILE, why_inexact
from backends.processor import read_cpuinfo, this_machine

_WHY_NOT = why_inexact("vnni", this_machine(), read_cpuinfo())

needs_vnni = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
EVERY_X86 = [DEFAULT_PROFILE, pytest.param("vnni", marks=needs_vnni)]
