"""The instructions that LLVM makes of kernels for Arm processors with dot products of signed bytes."""

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def test_products_are_summed_while_they_are_made():
    text = harness.profile_assembly(oracle.make_conv((8, 8, 32), 32), "aarch64-dotprod")
    assert harness.multiplications(text) == {"sdot"}
