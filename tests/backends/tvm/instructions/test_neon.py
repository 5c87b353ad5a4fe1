"""The instructions that LLVM makes of kernels for every 64-bit Arm processor."""

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def test_products_are_summed_while_they_are_made():
    text = harness.profile_assembly(oracle.make_conv((8, 8, 32), 32), "aarch64")
    assert harness.multiplications(text) == {"smlal"}
