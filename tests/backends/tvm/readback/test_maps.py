"""Constants of pools, sums and products against those that kernels are made with."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.fixed_point.operators.steps import Extreme, Resample, Taps
from isobit.backends.fixed_point.program import Conv, Lookup, Window
from isobit.backends.readback.description import Terms
from isobit.backends.tvm.readback.maps import map_of
from isobit.backends.tvm.readback.places import places_of
from tests.backends.tvm.harness import needs_tvm
from tests.examples.programs import Builder


def maps():
    """Every kind, with zero points that are 0 and others."""
    net = Builder((6, 6, 5))
    relu = net.add_buffer((6, 6, 5), 0)
    net.steps.append(Lookup("act", "act", (0,), relu, np.arange(256, dtype=np.uint8)))
    total = net.sum(0, relu)
    net.product(total, net.global_average(total))
    net.average_pool(total, Window((3, 3), (2, 2), (1, 1, 1, 1)))
    net.average_pool(total, Window((2, 2), (2, 2), (0, 0, 0, 0)))
    net.max_pool(total, Window((3, 3), (1, 1), (1, 1, 1, 1)))
    rescale = net.steps[1].rescale
    one = replace(rescale, terms=rescale.terms[:1])
    two = replace(rescale, terms=rescale.terms[1:])
    net.steps.append(Extreme("largest", "largest", (0, relu), net.add_buffer((6, 6, 5)), (one, two), True, 4, 255))
    taps = Taps(np.array([0, 0, 4], np.int32), np.array([[1, 2], [3, 1], [2, 2]], np.int32))
    divisor = np.array([[3, 3, 4]] * 3, np.int32)
    net.steps.append(Resample("resized", "resized", (total,), net.add_buffer((3, 3, 5)), taps, taps, divisor,
                              {3: one, 4: two}, 0, 255))
    return net.build(total)


PROGRAM = maps()
STEPS = [step for step in PROGRAM.steps if map_of(step, PROGRAM, places_of(PROGRAM), 16)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__}-{step.name}")
def test_constants_are_those_of_the_kernels(step):
    needs_tvm()
    from isobit.backends.tvm.instructions import instruction_set
    from isobit.backends.tvm.kernels.layout import plan_places
    from isobit.backends.tvm.module import step_call

    arrays = step_call(step, PROGRAM, plan_places(PROGRAM), instruction_set("lanes")).constants
    wanted = map_of(step, PROGRAM, places_of(PROGRAM), 16).constants
    assert len(arrays) == len(wanted)
    for each, array in zip(wanted, arrays, strict=True):
        terms, other = Terms(), array.copy()
        found, must = each.fields([array], terms)
        assert found == must
        other[-1] += 1
        found, must = each.fields([other], terms)
        assert len([name for name in found if found[name] is not must[name]]) == 1


def test_every_kind_was_tried_and_layers_are_none():
    assert {type(step).__name__ for step in STEPS} == {
        "Sum", "Product", "GlobalAverage", "AveragePool", "MaxPool", "Extreme", "Resample"}
    net = Builder((4, 4, 4))
    net.conv(0, 4)
    program = net.build(1)
    assert isinstance(program.steps[0], Conv) and map_of(program.steps[0], program, places_of(program), 16) is None


def test_machine_code_knows_windows_ends_and_which_of_two():
    def form(step):
        return tuple(map_of(step, PROGRAM, places_of(PROGRAM), 16).form)

    by_kind = {type(step).__name__: step for step in STEPS}
    pool, largest, total = by_kind["MaxPool"], by_kind["Extreme"], by_kind["Sum"]
    assert form(pool) != form(replace(pool, window=replace(pool.window, stride=(2, 1))))
    assert form(pool) == form(replace(pool, window=replace(pool.window, padding=(1, 1, 0, 0))))
    assert form(largest) != form(replace(largest, largest=False)) and form(largest) != form(replace(largest, low=0))
    assert form(total) == form(replace(total, rescale=replace(total.rescale, offset=total.rescale.offset + (1 << 32))))
