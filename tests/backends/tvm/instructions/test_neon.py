"""The instructions that LLVM makes of kernels for every 64-bit Arm processor."""

import re

import pytest

from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def test_products_are_summed_while_they_are_made():
    text = harness.profile_assembly(oracle.make_conv((8, 8, 32), 32), "aarch64")
    assert harness.multiplications(text) == {"smlal"}


def test_small_products_are_added_in_16_bits():
    point = {"kernel": (1, 1), "padding": (0, 0, 0, 0), "bits": 4}
    narrow = harness.profile_assembly(oracle.make_conv((8, 8, 32), 32, largest=15, **point), "aarch64")
    assert re.search(r"smlal\s+v\d+\.8h, v\d+\.8b, v\d+\.8b", narrow)
    wide = harness.profile_assembly(oracle.make_conv((8, 8, 32), 32, **point), "aarch64")
    assert not re.search(r"smlal\s+v\d+\.8h", wide)
