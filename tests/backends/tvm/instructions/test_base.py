"""Expressions of every instruction set, on this processor."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layers.weights import fields, pack
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def made(flavour: str = "lanes"):
    harness.needs(flavour)
    return instruction_set(flavour)


@pytest.mark.parametrize("flavour", harness.NATIVE)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packed_weights_are_unpacked(flavour, bits):
    e = made(flavour)
    unit, position, offset = e.lanes * e.group, 1, 2 ** (bits - 1)
    codes = np.random.default_rng(0).integers(0, 2**bits, (1, 8, unit)).astype(np.uint8)
    packed = pack(codes, bits).reshape(-1)
    offsets = np.full(unit, offset, np.uint8).view(np.int32)
    got = harness.run_vectors(e, {"weights": packed, "offsets": offsets}, e.operand, lambda code: e.unpack(
        code["weights"], 0, fields(bits, position), unit, e.load(code["offsets"], 0, unit // 4)
    ))
    assert np.array_equal(got, codes[0, position].astype(int) - offset)


def test_images_are_rounded_to_even_clipped_and_joined():
    e = made()
    values = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, 100, -100] * 2, np.float32)
    grid = np.repeat(np.array([np.float32(1).view(np.int32), 10], np.int32), 16)

    def write(code):
        codes = e.quantize(e.load(code["values"], 0), e.load(code["grid"], 0), e.load(code["grid"], 16))
        return e.join([codes, e.splat(e.number("int32", 3))])

    got = harness.run_vectors(e, {"values": values, "grid": grid}, "uint8", write).reshape(16, 4)
    assert got[:8].tolist() == [[code, 3, 0, 0] for code in (10, 12, 12, 10, 255, 0, 110, 0)]


def test_a_dot_product_adds_a_group_to_each_lane():
    e, random = made(), np.random.default_rng(0)
    arrays = {
        "codes": random.integers(0, 256, 6).astype(np.uint8),
        "weights": random.integers(-128, 128, 80).astype(np.int8),
        "sums": random.integers(-1000, 1000, 16).astype(np.int32),
    }
    got = harness.run_vectors(
        e, arrays, "int32", lambda code: e.dot(e.load(code["sums"], 0), code["codes"], 2, code["weights"], 16)
    )
    products = arrays["codes"][2:].astype(int) @ arrays["weights"][16:].reshape(4, 16).astype(int)
    assert np.array_equal(got, arrays["sums"] + products)
