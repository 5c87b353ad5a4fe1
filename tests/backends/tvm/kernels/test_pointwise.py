"""Sums, products, averages and maxima against the oracle."""

import numpy as np
import pytest

from isobit.backends.fixed_point.program import AveragePool, GlobalAverage, MaxPool, Product, Program, Sum, Window
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def program(kind, shapes, out, zeros, *rest) -> Program:
    """One step from tensors of `shapes` to one of `out`; `zeros` are their zero points."""
    buffers = tuple(
        oracle.make_buffer(f"b{number}", shape, zero)
        for number, (shape, zero) in enumerate(zip([*shapes, out], zeros, strict=True))
    )
    return Program(buffers, (kind("y", "", tuple(range(len(shapes))), len(shapes), *rest),), ())


def average(shape, out, window, divisor, low=0, high=255) -> Program:
    rescales = {
        int(number): oracle.make_rescale_of([1.3 / number], [255 * int(np.prod(window.kernel))], 4)
        for number in np.unique(divisor)
    }
    return program(AveragePool, [shape], out, (9, 4), window, divisor.astype(np.int32), rescales, low, high)


MAP = (5, 6, 20)
CASES = {
    "sum": program(Sum, [MAP, MAP], MAP, (3, 128, 7), oracle.make_rescale_of([0.4, 0.7], [255, 255], 7), 0, 255),
    "narrow sum": program(Sum, [MAP, MAP], MAP, (0, 0, 0), oracle.make_rescale_of([0.4, 0.1], [255, 255]), 2, 15),
    "broadcast sum": program(
        Sum, [MAP, (1, 1, 20)], MAP, (3, 8, 7), oracle.make_rescale_of([0.4, 0.7], [255, 255], 7), 0, 255
    ),
    "product": program(
        Product, [MAP, (1, 1, 20)], MAP, (3, 0, 7), oracle.make_rescale_of([0.003], [255 * 255], 7), 0, 255
    ),
    "global average": program(
        GlobalAverage, [MAP], (1, 1, 20), (5, 9), oracle.make_rescale_of([0.05], [255 * 30], 9), 0, 255
    ),
    "average pool": average(MAP, (2, 3, 20), Window((2, 2), (2, 2), (0, 0, 0, 0)), np.full((2, 3), 4)),
    "average pool by divisor": average(
        MAP, (3, 3, 20), Window((3, 3), (2, 2), (1, 1, 1, 1)), np.array([[4, 6, 6], [6, 9, 9], [4, 6, 6]]), 5, 200
    ),
    "maximum": program(MaxPool, [MAP], (3, 3, 20), (5, 5), Window((3, 3), (2, 2), (1, 1, 1, 1))),
    # Of a dilated window that begins outside, the pixel at the edge is no part.
    "dilated maximum": program(MaxPool, [MAP], (3, 3, 20), (5, 5), Window((3, 3), (2, 2), (2, 2, 2, 2), (2, 2))),
    # Shifts of exactly 32: the only ones whose rounding reaches into the lower half.
    "coarse": program(Sum, [MAP, MAP], MAP, (0, 9, 7), oracle.make_rescale_of([0.26, 0.3], [255, 255], 7), 0, 255),
}


@pytest.mark.parametrize("flavour", harness.NATIVE)
def test_every_code_is_the_oracles(flavour):
    assert harness.differing(CASES, flavour) == []
