"""Constants of what moves codes against those that kernels are made with."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.fixed_point.operators.steps import Gather, Reduce
from isobit.backends.fixed_point.program import Dequantize, LogitPlaces, Lookup, Move
from isobit.backends.readback.description import Terms
from isobit.backends.tvm.readback.moves import border, grid, moved
from isobit.backends.tvm.readback.places import places_of
from tests.backends.tvm.harness import needs_tvm
from tests.examples.programs import Builder


def moves():
    """Every kind: runs of channels, many channels, by number of the element, with and without what is nowhere."""
    net = Builder((4, 4, 6))
    net.conv(0, 24)
    net.lookup(1, by_channel=True)
    net.lookup(1)
    net.concat([1, 2, 3])
    net.move(1, (4, 4, 9), [*range(3, 10), -1, -1], origin=(-1, 0))
    net.move(1, (2, 2, 24), [*range(23, -1, -1)], stride=(2, 2))
    net.move_indexed(1, (2, 2, 24), np.append(np.random.default_rng(0).integers(0, 16 * 24, 95), -1))
    average = net.global_average(1)
    rescale = net.steps[-1].rescale
    for kind, largest in ((rescale, False), (None, True)):
        net.steps.append(Reduce("r", "r", (1,), net.add_buffer((1, 1, 24)), (-1, -1, 2), kind, largest, 0, 255))
    nothing = np.zeros(0, np.int32)
    some = LogitPlaces(0, (0, 0, 0), np.array([5, 383, 0], np.int32), np.array([30, 1, 2], np.int32))
    parts = (LogitPlaces(4, (0, 0, 1), nothing, nothing), some)
    net.steps.append(Dequantize("cat", "cat", (average, 1), None, parts, logits=(0, 32)))
    program = net.build(average)
    return replace(program, steps=(*program.steps[:-1], replace(program.steps[-1], logits=(32, 24))), logits=(56,))


PROGRAM = moves()
STEPS = [step for step in PROGRAM.steps if moved(step, PROGRAM, places_of(PROGRAM))]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__}-{step.output}")
def test_constants_are_those_of_the_kernels(step):
    needs_tvm()
    from isobit.backends.tvm.instructions import instruction_set
    from isobit.backends.tvm.kernels.layout import plan_places
    from isobit.backends.tvm.module import step_call

    arrays = step_call(step, PROGRAM, plan_places(PROGRAM), instruction_set("lanes")).constants
    wanted = moved(step, PROGRAM, places_of(PROGRAM)).constants
    assert len(arrays) == len(wanted)
    for each, array in zip(wanted, arrays, strict=True):
        terms, other = Terms(), array.copy()
        found, must = each.fields([array], terms)
        assert found == must
        other.reshape(-1)[-1] += 1
        found, must = each.fields([other], terms)
        assert len([name for name in found if found[name] is not must[name]]) == 1


def test_the_kinds_that_were_tried():
    assert {type(step).__name__ for step in STEPS} == {"Lookup", "Concat", "Move", "Reduce", "Dequantize"}
    assert moved(PROGRAM.steps[0], PROGRAM, places_of(PROGRAM)) is None


def test_many_channels_go_by_a_table_and_few_runs_do_not():
    index = [moved(step, PROGRAM, places_of(PROGRAM)).constants[0].array for step in STEPS if isinstance(step, Move)]
    assert [array.shape for array in index] == [(1,), (24,), (96,)]
    assert index[1].tolist() == [*range(23, -1, -1)] and index[2].min() == -1


def test_rows_of_a_table_lie_one_after_the_other():
    net = Builder((1, 1, 4))
    table = np.arange(12, dtype=np.uint8).reshape(3, 4)
    program = net.build(0)
    step = Gather("rows", "rows", (0,), 0, table)
    assert moved(step, program, places_of(program)).constants[0].array.tolist() == [*range(12)]
    (numbers,), (fields,) = border(7), grid(0.5, 3)
    assert numbers.parts["border"].tolist() == [7] * 16
    assert fields.parts["scale"].view(np.float32).tolist() == [0.5] * 16
    assert fields.parts["zero_point"].tolist() == [3] * 16


def test_machine_code_knows_steps_and_runs():
    def form(step):
        return moved(step, PROGRAM, places_of(PROGRAM)).form

    first, many, by_number = (step for step in STEPS if isinstance(step, Move))
    assert form(first) != form(replace(first, origin=(0, 0)))
    assert form(many) == form(replace(many, channels=many.channels[[1, 0, *range(2, 24)]]))
    assert form(by_number) == form(replace(by_number, stride=(2, 2), index=by_number.index[::-1]))
    by_channel, plain = (step for step in STEPS if isinstance(step, Lookup))
    assert form(by_channel) != form(plain)
