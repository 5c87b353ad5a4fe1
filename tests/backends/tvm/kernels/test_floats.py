"""Codes to values and back, bit for bit, whatever the rank, the border and the ends of the grid."""

from __future__ import annotations

import numpy as np
import pytest

from isobit.backends.fixed_point.floats.steps import Decode, Encode, Leave
from isobit.backends.fixed_point.floats.tensors import FloatTensor
from isobit.backends.fixed_point.program import Buffer, Program
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels import floats
from isobit.backends.tvm.kernels.layout import Place
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
RANDOM = np.random.default_rng(0)
SHAPES = {"map": ((1, 5, 3, 4), (3, 4, 5), False), "lines": ((1, 12, 5), (1, 12, 5), True),
          "features": ((1, 7), (1, 1, 7), False), "five axes": ((1, 2, 2, 3, 5), (6, 5, 2), False)}


def program_of(name):
    shape, (height, width, channels), in_order = SHAPES[name]
    buffer = Buffer("y", (height, width, channels), 9, 0.07, True, shape[1:], in_order)
    place = Place(height, width, channels, -(-channels // 16) * 16, (1, 0, 2, 1))
    return Program((buffer,), (), (), floats=(FloatTensor("v", shape, "float32"),)), place


def in_graph_order(codes, shape, in_order):
    return (codes if in_order else codes.transpose(2, 0, 1)).reshape(shape)


def called(call, *arrays):
    from tvm.runtime import tensor

    output = tensor(np.zeros(call.shape, call.kind))
    kernel = harness.compile_kernels({"kernel": call}, harness.needs("avx2"))["kernel"]
    kernel(*(tensor(np.ascontiguousarray(array)) for array in (*arrays, *call.constants)), output)
    return output.numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_codes_become_values(name):
    harness.needs("avx2")
    program, place = program_of(name)
    codes = RANDOM.integers(0, 256, (place.height, place.width, place.channels)).astype(np.uint8)
    call = floats.decode_call(Decode("v", "", (0,), None, (), 0), program, [place], instruction_set("avx2"))
    wanted = (codes.astype(np.float32) - 9) * np.float32(0.07)
    assert np.array_equal(called(call, harness.lay_out(codes, place, 9)),
                          in_graph_order(wanted, SHAPES[name][0], SHAPES[name][2]))


@pytest.mark.parametrize("ends", [(0, 255), (3, 15)])
@pytest.mark.parametrize("name", SHAPES)
def test_values_become_codes(name, ends):
    harness.needs("avx2")
    program, place = program_of(name)
    shape, size, in_order = SHAPES[name]
    steps = RANDOM.integers(-40, 1200, size) / 4  # halves, too: they round to even
    values = in_graph_order((steps * np.float32(0.07)).astype(np.float32), shape, in_order)
    call = floats.encode_call(Encode("y", "", (), 0, (0,), None, *ends), program, [place], instruction_set("avx2"))
    real = (steps * np.float32(0.07)).astype(np.float32)
    wanted = (np.rint(real / np.float32(0.07)) + 9).clip(*ends).astype(np.uint8)
    assert np.array_equal(harness.take_out(called(call, values), place, 9), wanted)


def test_outputs_lie_one_after_the_other():
    harness.needs("avx2")
    kinds = {"a": ((1, 2, 3), "float32"), "b": ((1, 2), "int64"), "c": ((1,), "bool")}
    tensors = tuple(FloatTensor(name, *about) for name, about in kinds.items())
    program = Program((), (), (9,), floats=tensors)
    values = [RANDOM.standard_normal((1, 2, 3), np.float32), np.array([[5, -7]]), np.array([True])]
    call = floats.leave_call(Leave("out", "", (), None, (1, 0, 2), None), program, instruction_set("avx2"))
    got = called(call, values[1], values[0], values[2])
    assert np.array_equal(got, np.concatenate([np.float32([5, -7]), values[0].ravel(), np.float32([1])]))
