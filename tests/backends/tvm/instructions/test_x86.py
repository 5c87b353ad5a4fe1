"""What AVX2 and AVX-512 share, on this processor: what a pack permutes, the interleaved pixels undo."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
SETS = [("vnni512", 16), ("vnni512", 8), ("vnni512", 4), ("vnni256", 8), ("avx2", 8), ("avx2", 4)]


def made(flavour: str, lanes: int):
    harness.needs(flavour)
    return instruction_set(flavour).of(lanes)


@pytest.mark.parametrize(("flavour", "lanes"), SETS)
def test_four_vectors_are_packed_in_order_and_saturated(flavour, lanes):
    e = made(flavour, lanes)
    sums = np.random.default_rng(0).integers(-300, 600, 4 * lanes).astype(np.int32)
    got = harness.run_vectors(e, {"sums": sums}, "uint8", lambda code: e.pack(
        [e.load(code["sums"], i * lanes) for i in range(4)]
    ))
    assert np.array_equal(got, sums.clip(0, 255))


@pytest.mark.parametrize(("flavour", "lanes"), SETS)
def test_interleaved_pixels_are_packed_back_in_place(flavour, lanes):
    e = made(flavour, lanes)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4 * lanes)).astype(np.uint8)
    for tap in range(4):
        def write(code, tap=tap):
            rows = [e.load(code["pixels"], i * 4 * lanes, 4 * lanes) for i in range(4)]
            quads = [e.interleave(rows, vector) for vector in range(4)]
            mask = e.splat(e.number("int32", 255))
            taps = [e.T.bitwise_and(e.shift_right(quad, 8 * tap), mask) for quad in quads]
            return e.pack_in_place(taps)

        got = harness.run_vectors(e, {"pixels": pixels.reshape(-1)}, "uint8", write)
        assert np.array_equal(got, pixels[tap])


@pytest.mark.parametrize(("flavour", "lanes"), SETS)
@pytest.mark.parametrize("half", [False, True])
def test_upper_halves_of_products_are_exact(flavour, lanes, half):
    e, random = made(flavour, lanes), np.random.default_rng(0)
    arrays = {
        "values": random.integers(-1 << 31, 1 << 31, lanes).astype(np.int32),
        "multipliers": np.append(random.integers(-1 << 31, 1 << 31, lanes), 0).astype(np.int32),
        "offset": random.integers(-1 << 20, 1 << 20, lanes).astype(np.int32),
        "shift": random.integers(0, 8, lanes).astype(np.int32),
    }

    def write(code):
        values, offset, shift = (e.load(code[name], 0) for name in ("values", "offset", "shift"))
        terms = [(values, e.load(code["multipliers"], 0), e.load(code["multipliers"], 1))]
        return e.rescale(terms, offset, shift, half)

    products = arrays["values"].astype(np.int64) * arrays["multipliers"][:-1]
    wanted = ((products + (half << 31) >> 32) + arrays["offset"]).astype(np.int32) >> arrays["shift"]
    assert np.array_equal(harness.run_vectors(e, arrays, "int32", write), wanted)
