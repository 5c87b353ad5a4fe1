"""Logits and values: which element goes where."""

import numpy as np

from isobit.backends.c.readback.leaving import spread
from tests.backends.c.readback.test_layers import followed
from tests.examples.programs import Builder


def test_elements_are_spread_by_steps():
    assert spread((2, 1, 3), (10, 7, 1)).tolist() == [0, 1, 2, 10, 11, 12]


def test_codes_leave_channels_first(tmp_path):
    net = Builder((2, 2, 3))
    run = followed(net.build(net.lookup(0)), tmp_path)
    (leaves,) = run.outputs.values()
    assert leaves.get("elements").array.tolist() == np.arange(12).reshape(2, 2, 3).transpose(2, 0, 1).ravel().tolist()
    assert leaves.get("places").array.tolist() == list(range(12)) and run.problems == []


def test_a_name_that_was_given_and_a_tensor_that_is_not_there_are_told(tmp_path):
    net = Builder((2, 2, 3))
    program = net.build(net.lookup(0))
    run = followed(program, tmp_path, lambda text: text.replace("ISOBIT_TRACE(1, ", "ISOBIT_TRACE(0, "))
    assert any("tensor" in each.field for each in run.problems)
    set_to_one = "    memset(logits, 1, 3 * sizeof *logits);\n    lookup("
    run = followed(program, tmp_path, lambda text: text.replace("    lookup(", set_to_one))
    assert any("output" in each.field for each in run.problems)
