"""The reader's own float32 numbers of a layer are those of the kernels, and wrong ones are told."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.readback.description import Terms
from isobit.backends.tvm.kernels.layers.layer import layer_real_rescale
from isobit.backends.tvm.kernels.layers.narrow import longest_run as kernels_run
from isobit.backends.tvm.readback.numbers import Fields
from isobit.backends.tvm.readback.sums import add_reals, longest_run, reach_of, start_of
from tests.backends.fixed_point import oracle

CASES = {
    "plain": oracle.make_conv((6, 6, 16), 20, bits=4, largest=15, high=15, zero_points=(3, 2)),
    "residual": oracle.make_conv((6, 6, 8), 4, bits=2, largest=3, high=7, residual_zero=1),
    "wide": oracle.make_conv((4, 4, 8), 4, bits=4),
}


def narrowed(program):
    """A residual of small codes comes from a table as well."""
    table = replace(program.steps[0], inputs=(len(program.buffers) - 1,), output=1)
    return replace(program, steps=(table, *program.steps))


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_kernels_are_given(name):
    program = narrowed(CASES[name]) if name == "residual" else CASES[name]
    step = program.steps[-1]
    made, reach = layer_real_rescale(step, program), reach_of(step, program)
    assert made is not None and reach is not None
    found = start_of(reach, made.factors)
    assert found is not None and np.array_equal(found, made.start)


def test_factors_that_give_other_codes_have_no_start():
    program = CASES["plain"]
    made, reach = layer_real_rescale(program.steps[-1], program), reach_of(program.steps[-1], program)
    assert start_of(reach, [made.factors[0] * np.float32(1.01)]) is None


def test_no_float_is_right_where_none_is_shown_to_be():
    program = oracle.make_conv((6, 6, 16), 20, zero_points=(3, 2))  # 8 bits: sums in steps as fine as roundings
    reach, fields, terms = reach_of(program.steps[-1], program), Fields(), Terms()
    assert layer_real_rescale(program.steps[-1], program) is None
    factors = [term.multiplier / 2.0**reach.rescale.shift for term in reach.rescale.terms]
    add_reals(fields, reach, range(24))
    for start in (np.nan, 0.0):
        given = np.zeros(64, np.float32)
        given[:20], given[32:56] = factors[0], start
        found, must = fields.wanted.fields([given.view(np.int32)], terms)
        assert found["factor_0"] is must["factor_0"] and found["start"] is not must["start"]


@pytest.mark.parametrize(("value", "largest", "run"), [(7, 15, 72), (-8, 255, 8), (64, 255, 1), (65, 255, 0)])
def test_runs_are_those_of_the_kernels(value, largest, run):
    parts = np.full((2, 72, 4, 2), value, np.int8)
    assert longest_run(parts, (3, 1, 24), largest) == kernels_run(parts, (3, 1, 24), largest) == run


def test_every_float_of_a_constant_is_told():
    program = CASES["plain"]
    made, reach = layer_real_rescale(program.steps[-1], program), reach_of(program.steps[-1], program)
    fields, terms = Fields(), Terms()
    add_reals(fields, reach, range(24))
    padded = [np.append(each, np.zeros(12, np.float32)).view(np.int32) for each in (made.factors[0], made.start)]
    right = np.concatenate(padded)
    found, must = fields.wanted.fields([right], terms)
    assert found == must
    for place, name in ((0, "factor_0"), (19, "factor_0"), (25, "factor_0"), (32, "start"), (60, "start")):
        other = right.copy()
        other[place] += 1
        found, must = fields.wanted.fields([other], terms)
        assert [field for field in found if found[field] is not must[field]] == [name], place
