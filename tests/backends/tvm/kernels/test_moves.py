"""Codes moved, joined, looked up, brought in and out."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.fixed_point.program import Concat, Dequantize, Lookup, Move, Program
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels import moves
from isobit.backends.tvm.kernels.layout import Place
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
NONE = np.zeros(0, np.int32)
TABLE = np.random.default_rng(0).integers(0, 256, 256).astype(np.uint8)


def move(source, target, channels=NONE, stride=(1, 1), origin=(0, 0), index=None) -> Program:
    buffers = (oracle.make_buffer("x", source, 9), oracle.make_buffer("y", target, 9))
    channels = np.asarray(channels, np.int32)
    return Program(buffers, (Move("y", "", (0,), 1, stride, origin, channels, index),), ())


CASES = {
    "shortcut": move((6, 6, 16), (3, 3, 32), [-1] * 8 + list(range(16)) + [-1] * 8, (2, 2)),
    "crop": move((6, 6, 40), (5, 4, 40), range(40), (1, 1), (1, 1)),
    "pad": move((4, 5, 3), (7, 7, 3), range(3), (1, 1), (-2, -1)),
    "flipped": move((4, 5, 20), (4, 5, 20), range(20), (-1, 1), (3, 0)),
    "shuffle": move((4, 5, 40), (4, 5, 40), np.arange(40).reshape(2, 20).T.ravel()),
    "padded shuffle": move((4, 5, 40), (6, 5, 40), np.arange(40).reshape(2, 20).T.ravel(), (1, 1), (-1, 0)),
    "flatten": move((3, 4, 5), (1, 1, 60), index=np.arange(60).reshape(3, 4, 5).transpose(2, 0, 1).ravel()),
    "gaps": move((3, 4, 5), (1, 1, 7), index=np.array([3, -1, 59, 0, -1, 7, 7])),
    "lookup": Program((oracle.make_buffer("x", (3, 3, 5)), oracle.make_buffer("y", (3, 3, 5), 4)),
                      (Lookup("y", "", (0,), 1, TABLE),), ()),
    "lookup by channel": Program((oracle.make_buffer("x", (3, 3, 5)), oracle.make_buffer("y", (3, 3, 5), 4)),
                                 (Lookup("y", "", (0,), 1, np.stack([np.roll(TABLE, i) for i in range(5)])),), ()),
    "concat": Program(
        tuple(oracle.make_buffer(name, (3, 4, size), 6) for name, size in (("a", 5), ("b", 24), ("c", 3), ("y", 32))),
        (Concat("y", "", (0, 1, 2), 3, (None, TABLE, None)),), (),
    ),
    "dequantize": Program((oracle.make_buffer("x", (2, 3, 5), 7),), (Dequantize("y", "", (0,), None),), (5, 2, 3)),
    "parts": oracle.make_parts(),
}


@pytest.mark.parametrize("flavour", ["vnni512", "lanes"])
def test_every_code_is_the_oracles(flavour):
    assert harness.differing(CASES, flavour) == []


@pytest.mark.parametrize(("shape", "pixel"), [((5, 21, 3), 4), ((2, 3, 3), 4), ((3, 5, 20), 32)])
def test_images_are_rounded_to_even_and_clipped(shape, pixel):
    program = Program((oracle.make_buffer("x", shape, 114),), (), ())
    place = Place(*shape, pixel, (1, 0, 0, 2))
    call = moves.quantize_call(program, 0, place, instruction_set("avx2") if harness.needs("avx2") else None).call
    scale = np.float32(program.input.scale)
    x = (np.random.default_rng(0).integers(-600, 600, (1, shape[2], *shape[:2])) / 4).astype(np.float32) * scale
    wanted = (np.rint(x / scale) + 114).clip(0, 255).astype(np.uint8)[0].transpose(1, 2, 0)
    assert np.array_equal(harness.take_out(_called(call, "avx2", x), place, 114), wanted)


def test_codes_come_in_and_go_out():
    harness.needs("lanes")
    last = Dequantize("y", "", (0,), None)
    program = Program((oracle.make_buffer("x", (3, 4, 20), 5),), (last,), (2, 3))
    place = Place(3, 4, 20, 32, (1, 1, 1, 1))
    codes = oracle.random_codes(program, 0, 1)
    flat = _called(moves.enter_call(program, 0, place, instruction_set("lanes")).call, "lanes", codes)
    assert np.array_equal(harness.take_out(flat, place, 5), codes[0])
    assert np.array_equal(_called(moves.leave_call(0, place), "lanes", flat), codes)
    logits = np.arange(16, dtype=np.float32)
    found = _called(moves.finish_call(program.steps, [16], program), "lanes", logits)[0]
    assert np.array_equal(found, logits[:6].reshape(2, 3))
    parts = [replace(last, logits=(0, 2)), replace(last, logits=(2, 4))]
    found = _called(moves.finish_call(parts, [16, 16], program), "lanes", logits, 100 + logits)[0]
    assert found.ravel().tolist() == [0, 1, 100, 101, 102, 103]


def _called(call, flavour, *inputs) -> np.ndarray:
    from tvm.runtime import tensor

    module = harness.compile_kernels({"kernel": call}, harness.needs(flavour))
    output = tensor(np.full(call.shape, 0xA5, call.kind))
    module["kernel"](*(tensor(np.ascontiguousarray(array)) for array in [*inputs, *call.constants]), output)
    return output.numpy()
