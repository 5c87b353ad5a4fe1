"""Kernels as the IR builder makes them: named buffers and loops, borders, tiles that end with the map."""

import numpy as np
import pytest

from isobit.backends.tvm.kernels.kernel import Argument, Call, border_parts, fill_border, last_fits, make_kernel
from isobit.backends.tvm.kernels.layout import Place
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
PLACES = [
    Place(3, 4, 20, 32, (1, 2, 0, 3)), Place(3, 4, 20, 32), Place(2, 3, 1, 1, (1, 0, 0, 1)),
    Place(1, 1, 4, 4, (0, 1, 1, 0)),
]


def made(arguments, write, **options):
    harness.needs_tvm()
    return make_kernel(arguments, write, **options)


def test_buffers_and_loops_have_their_names():
    def write(code):
        vector = code.scratch("vector", 4, "int32")
        with code.loop("chunk", 3) as chunk:
            code.store(vector, 0, code["codes"][code.T.Ramp(chunk * 4, 1, 4)], 4)
            code.store(code["output"], chunk, vector[0])

    text = made([Argument("codes", (12,), "int32"), Argument("output", (3,), "int32")], write).script()
    for line in (
        'def kernel(codes: T.Buffer((12,), "int32"), output: T.Buffer((3,), "int32")):',
        'vector = T.sblock_alloc_buffer((4,), "int32")', "for chunk in range(3):", "output[chunk] = vector[0]",
    ):
        assert line in text


@pytest.mark.parametrize(("foreign", "align"), [(False, ""), (True, ", align=4")])
def test_only_a_users_buffer_may_start_anywhere(foreign, align):
    def write(code):
        code.store(code["output"], 0, code["image"][0])

    arguments = [Argument("image", (4,), "float32"), Argument("output", (4,), "float32")]
    text = made(arguments, write, foreign=foreign).script()
    assert f'image: T.Buffer((4,), "float32"{align})' in text
    assert 'output: T.Buffer((4,), "float32"))' in text


@pytest.mark.parametrize("place", PLACES)
def test_border_is_all_that_is_not_the_map(place):
    top, left, _, right = place.border
    written = np.zeros(place.size, int)
    for start, length, rows in border_parts(place):
        for row in range(rows):
            written[start + row * place.row:start + row * place.row + length] += 1
    expected = np.ones((place.rows, place.width + left + right, place.pixel), int)
    expected[top:top + place.height, left:left + place.width] = 0
    assert np.array_equal(written[:expected.size].reshape(expected.shape), expected)


@pytest.mark.parametrize("place", PLACES)
def test_border_is_filled(place):
    def write(code):
        fill_border(code, place, code["codes"][0], code["output"])
        with code.pixels(place) as (y, x), code.loop("channel", place.pixel) as c:
            address = place.at(0, 0) + y * place.row + x * place.pixel + c
            code.store(code["output"], address, code["codes"][1])

    call = Call("border", made([Argument("codes", (16,), "uint8"), Argument("output", (place.size,), "uint8")], write),
                (), (), (place.size,))
    from tvm.runtime import tensor

    output = tensor(np.zeros(place.size, np.uint8))
    harness.compile_kernels({"kernel": call}, harness.needs("lanes"))["kernel"](
        tensor(np.array([7, 9] + 14 * [0], np.uint8)), output
    )
    whole = output.numpy()[:place.rows * place.row].reshape(place.rows, -1, place.pixel)
    top, left, _, _ = place.border
    inside = np.zeros(whole.shape, bool)
    inside[top:top + place.height, left:left + place.width] = True
    assert (whole[inside] == 9).all()
    assert (whole[~inside] == 7).all()


def test_a_condition_guards_what_it_holds():
    def write(code):
        with code.loop("element", 4) as i, code.when(i >= 2):
            code.store(code["output"], i, code["codes"][i])

    text = made([Argument("codes", (4,), "uint8"), Argument("output", (4,), "uint8")], write).script()
    assert text.index("if element >= 2:") < text.index("output[element] = codes[element]")


@pytest.mark.parametrize(("tile", "whole", "starts"), [(3, 9, "tile * 3"), (4, 9, "T.min(tile * 4, 5)")])
def test_the_last_tile_ends_with_the_map(tile, whole, starts):
    def write(code):
        with code.loop("tile", -(-whole // tile)) as number:
            code.store(code["output"], last_fits(code, number, tile, whole), code["codes"][0])

    text = made([Argument("codes", (1,), "uint8"), Argument("output", (whole,), "uint8")], write).script()
    assert f"output[{starts}] = codes[0]" in text
