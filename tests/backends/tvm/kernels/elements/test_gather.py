"""Rows of a table, for integers in it and outside."""

import numpy as np
import pytest

from isobit.backends.fixed_point.operators.steps import Gather
from isobit.backends.fixed_point.program import Buffer, Program
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.elements.gather import gather_call
from isobit.backends.tvm.kernels.layout import plan_places
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def test_every_row_is_the_tables():
    from tvm.runtime import tensor

    target = harness.needs("lanes")
    table = np.random.default_rng(0).integers(0, 256, (6, 20)).astype(np.uint8)
    buffers = (Buffer("words", (1, 1, 5), 0, 1.0, False, (5,), in_order=True, integers=True),
               Buffer("y", (1, 5, 20), 4, 0.1, True, (5, 20), in_order=True))
    step = Gather("y", "", (0,), 1, table)
    program = Program(buffers, (step,), ())
    places = plan_places(program)
    call = gather_call(step, program, places, instruction_set("lanes"))
    output = tensor(np.full(call.shape, 0xA5, np.uint8))
    words = np.array([3, -1, 5, 9, 0], np.int32)
    module = harness.compile_kernels({"kernel": call}, target)
    module["kernel"](tensor(words), *(tensor(array) for array in call.constants), output)
    assert np.array_equal(harness.take_out(output.numpy(), places[1], 4)[0], table[[3, 0, 5, 5, 0]])
