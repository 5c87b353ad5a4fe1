"""The largest codes and sums of programs, against what the oracle computes."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.fixed_point.code_ranges import largest_codes, sum_ends
from isobit.backends.fixed_point.operators.steps import Reduce
from isobit.backends.fixed_point.program import Concat, GlobalAverage, Lookup, MaxPool, Move, Program, Window
from tests.backends.fixed_point import oracle
from tests.examples.programs import Builder


def test_codes_of_random_inputs_stay_below_and_reach_the_largest():
    net = Builder((6, 6, 4), bits=4)
    first = net.conv(0, 8, low=2)
    narrow = replace(net.steps[-1], high=15)
    net.steps[-1] = narrow
    moved = net.move(first, (6, 6, 8), list(range(8)))
    net.conv(net.global_average(moved), 5, (1, 1), padding=(0, 0, 0, 0), logits=True)
    program = net.build(None)
    largest = largest_codes(program)
    assert largest[0] == 255 and largest[first] == max(15, program.buffers[first].zero_point)
    values, _ = oracle.run(program, oracle.random_codes(program, 0, 3))
    assert all(value.max() <= end for value, end in zip(values, largest, strict=True))


def test_what_tables_and_moves_hold():
    program = oracle.make_conv((4, 4, 3), 5, largest=9, zero_points=(4, 0))
    assert largest_codes(program) == [9, 255, 255]
    assert largest_codes(oracle.make_conv((4, 4, 3), 5, largest=9, zero_points=(11, 0)))[0] == 11  # the border's


def written(step, sources, zero_point=0):
    """The largest code of what `step` writes; the tables before it hold codes up to each of `sources`."""
    count = len(sources)
    buffers = [oracle.make_buffer(f"x{number}", (2, 2, 4)) for number in range(2 * count)]
    buffers.append(oracle.make_buffer("y", (2, 2, 4 * count), zero_point))
    tables = [Lookup("", "", (number,), count + number, np.arange(256, dtype=np.uint8).clip(0, end), high=end)
              for number, end in enumerate(sources)]
    inputs = tuple(range(count, 2 * count))
    last = replace(step, inputs=inputs, output=2 * count)
    program = Program(tuple(buffers), (*tables, last), (), input_names=tuple(f"x{i}" for i in range(count)))
    return largest_codes(program)[-1]


NONE = ("", "", (), 0)
PLAIN = np.arange(4, dtype=np.int32)
RESCALE = oracle.make_rescale_of([0.5], [255])


@pytest.mark.parametrize(("step", "sources", "largest"), [
    (Move(*NONE, (1, 1), (0, 0), PLAIN, None), (9,), 9),
    (Move(*NONE, (1, 1), (0, 0), PLAIN, None, 77), (9,), 77),
    (Concat(*NONE, (None, None), high=40), (9, 31), 40),
    (Concat(*NONE, (np.full(256, 40, np.uint8), None), high=15), (99, 31), 31),
    (Concat(*NONE, (np.full(256, 9, np.uint8),) * 2, high=15), (99, 99), 15),
    (Concat(*NONE, (np.full(256, 9, np.uint8), None)), (9, 31), 255),
    (MaxPool(*NONE, Window((2, 2), (1, 1), (0, 0, 0, 0))), (13,), 13),
    (GlobalAverage(*NONE, RESCALE, 0, 14), (200,), 14),
    (Reduce(*NONE, (0, 0, 0), None, True, 0, 15), (200,), 255),  # of a kind whose ends nobody applies
], ids=["move", "fill", "concat", "table", "tables", "ends nobody states", "pool", "average", "other"])
def test_the_largest_code_of_each_kind_of_step(step, sources, largest):
    assert written(step, sources) == largest
    assert written(step, sources, zero_point=250) == max(largest, 250)


def test_sums_reach_both_ends():
    program = oracle.make_conv((1, 1, 12), 6, (1, 1), padding=(0, 0, 0, 0), largest=7, zero_points=(3, 0))
    step = program.steps[-1]
    least, most = sum_ends(step, 3, 7)
    weights = step.weights.codes.reshape(6, 12).astype(int)
    for ends, picked in ((least, weights < 0), (most, weights > 0)):
        codes = np.where(picked, 7, 0)
        assert ((codes - 3) * weights).sum(1).tolist() == (ends - step.bias).tolist()
