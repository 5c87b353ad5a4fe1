"""The largest codes and sums of programs, against what the oracle computes."""

from dataclasses import replace

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes, sum_ends
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


def test_sums_reach_both_ends():
    program = oracle.make_conv((1, 1, 12), 6, (1, 1), padding=(0, 0, 0, 0), largest=7, zero_points=(3, 0))
    step = program.steps[-1]
    least, most = sum_ends(step, 3, 7)
    weights = step.weights.codes.reshape(6, 12).astype(int)
    for ends, picked in ((least, weights < 0), (most, weights > 0)):
        codes = np.where(picked, 7, 0)
        assert ((codes - 3) * weights).sum(1).tolist() == (ends - step.bias).tolist()
