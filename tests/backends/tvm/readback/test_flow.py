"""Functions of a module followed instruction by instruction."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.tvm.readback.executable import Executable, Function, Instruction, Register
from isobit.backends.tvm.readback.flow import (
    MACHINE,
    VOID,
    Call,
    Given,
    Made,
    NotUnderstood,
    Parameter,
    computed_from,
    follow,
)

WEIGHT = np.arange(3, dtype=np.int8)
TEXT = 'ErrorContext(fn=main, loc=param[0], param=x, annotation=R.Tensor((1, 4), dtype="uint8")) '


def r(number):
    return Register(number)


def entered():
    """Type and shape of the parameter are checked."""
    return [Instruction("vm.builtin.check_tensor_info", (r(0), 2, "uint8", TEXT), VOID),
            Instruction("vm.builtin.match_shape", (r(0), VOID, 2, 0, 1, 0, 4, TEXT), VOID)]


def storage(result, size=4):
    return Instruction("vm.builtin.alloc_storage", (MACHINE, (size,), 0, "uint8", "global"), r(result))


def tensor(result, of, shape=(4,), kind="uint8"):
    return Instruction("vm.builtin.alloc_tensor", (r(of), 0, shape, kind), r(result))


def drop(register):
    return Instruction("vm.builtin.null_value", (), r(register))


def kernel(name, *arguments):
    return Instruction(name, arguments, VOID)


def module(*instructions, registers):
    function = Function(("x",), registers, tuple(instructions))
    return Executable({"main": function, "float_0": replace(function, registers=1)}, (WEIGHT,), (0,), (0, 0))


def whole():
    return [*entered(), storage(1), tensor(2, 1), kernel("first_0", r(0), WEIGHT, r(2)), storage(3), tensor(4, 3),
            kernel("second_1", r(2), r(2), r(4)), drop(2), tensor(5, 1), kernel("first_0", r(4), WEIGHT, r(5)),
            Instruction("float_0", (r(5),), r(6)), Instruction("vm.builtin.make_tuple", (r(4), r(6)), r(7)),
            Instruction("", (r(7),))]


def test_calls_their_arguments_and_what_is_returned_are_found():
    flow = follow(module(*whole(), registers=8), "main")
    assert flow.parameters == (Parameter("x", (1, 4), "uint8"),) and flow.several
    assert flow.returned == (Made(1), Made(3))
    assert [(call.callee, call.shape) for call in flow.calls] == [
        ("first_0", (4,)), ("second_1", (4,)), ("first_0", (4,)), ("float_0", None)]
    assert flow.calls[0].arguments == (Given(0), WEIGHT) and flow.calls[1] == Call(
        "second_1", (Made(0), Made(0)), (4,), "uint8")
    assert flow.calls[3].arguments == (Made(2),) and str(Given(0)) == "parameter 0" and "call 2" in str(Made(2))


def test_a_tensor_that_was_written_over_is_read_by_nobody():
    steps = [*entered(), storage(1), tensor(2, 1), kernel("first_0", r(0), r(2)), tensor(3, 1),
             kernel("second_1", r(0), r(3)), storage(4), tensor(5, 4), kernel("third_2", r(2), r(3), r(5)),
             Instruction("", (r(5),))]
    flow = follow(module(*steps, registers=6), "main")
    assert flow.calls[2].arguments == (None, Made(1)) and flow.returned == (Made(2),) and not flow.several


def test_one_tensor_that_nobody_wrote_is_nothing():
    steps = [*entered(), storage(1), tensor(2, 1), Instruction("", (r(2),))]
    assert follow(module(*steps, registers=3), "main").returned == (None,)


def changed(place, instruction):
    steps = whole()
    steps[place] = instruction
    return steps


@pytest.mark.parametrize(("steps", "registers", "message"), [
    (changed(4, kernel("first_0", r(0), WEIGHT)), 8, "instruction 4 .first_0.: .* is no register"),
    (changed(4, kernel("first_0", r(2), WEIGHT, r(0))), 8, "no tensor that it can write"),
    (changed(4, kernel("first_0", r(0), 3, r(2))), 8, "3 is no register"),
    (changed(4, kernel("first_0", r(1), WEIGHT, r(2))), 8, "it holds no tensor"),
    (changed(4, Instruction("first_0", (r(0), r(2)), r(3))), 8, "a kernel returns nothing"),
    (changed(7, kernel("second_1", r(2), r(2), r(2))), 8, "writes over what it reads"),
    (changed(2, storage(1, 3)), 8, "4 bytes in a storage of 3"),
    (changed(2, storage(1, 5)), 8, "larger than what lies in it"),
    (changed(3, Instruction("vm.builtin.alloc_tensor", (r(1), 1, (4,), "uint8"), r(2))), 8, "from the first byte"),
    (changed(3, Instruction("vm.builtin.alloc_tensor", (r(1), 0, "uint8", (4,)), r(2))), 8, "from the first byte"),
    (changed(2, Instruction("vm.builtin.alloc_storage", (MACHINE, (4,), 0, "global", "uint8"), r(1))), 8,
     "other memory"),
    (changed(0, Instruction("vm.builtin.check_tensor_info", (r(0), 3, "uint8", TEXT), VOID)), 8, "type of parameter 0"),
    (changed(0, Instruction("vm.builtin.check_tensor_info", (r(0), 2, TEXT, "uint8"), VOID)), 8, "checks no type"),
    (changed(1, Instruction("vm.builtin.match_shape", (r(0), VOID, 2, 1, 0, 0, 4, TEXT), VOID)), 8, "no fixed shape"),
    (changed(1, Instruction("vm.builtin.match_shape", (r(0), VOID, 2, 0, 1, 0, 5, TEXT), VOID)), 8,
     "the check of parameter"),
    (changed(1, Instruction("vm.builtin.reshape", (r(0),), VOID)), 8, "no function of the runtime"),
    (changed(8, drop(4)), 8, "register 4 holds nothing"),
    (changed(12, Instruction("", (r(4),))), 8, "stands after the return"),
    (changed(13, drop(6)), 8, "it returns nothing"),
    (changed(13, Instruction("", (r(6),))), 9, "9 registers, of which 8"),
    (changed(11, Instruction("float_0", (r(5),), r(8))), 8, "register 8 of 8"),
    (changed(11, Instruction("float_0", (r(5),), r(0))), 8, "parameter 0 is written over"),
])
def test_what_is_written_otherwise_is_refused(steps, registers, message):
    with pytest.raises(NotUnderstood, match=message):
        follow(module(*steps, registers=registers), "main")


def body(*instructions):
    """A function of two parameters that TVM's importer could have written."""
    function = Function(("a", "b"), 9, tuple(instructions))
    return computed_from(Executable({"float_0": function}, (), (), (0, 0)), "float_0")


def test_what_a_value_is_computed_from_is_found_whatever_computes_it():
    joined = [storage(2), tensor(3, 2), kernel("add", r(0), r(1), r(3)), drop(2),
              Instruction("vm.builtin.reshape", (r(3), (2, 2)), r(4)), Instruction("", (r(4),))]
    assert body(*joined) == (0, 1)
    over = [storage(2), tensor(3, 2), kernel("exp", r(0), r(3)), tensor(4, 2), kernel("exp", r(1), r(4)),
            Instruction("", (r(3),))]
    assert body(*over) == (1,)
    assert body(storage(2), tensor(3, 2), kernel("exp", r(3), r(0)), Instruction("", (r(3),))) == ()
    with pytest.raises(NotUnderstood, match="exp reads a register that holds nothing"):
        body(kernel("exp", r(0), r(7)))
    with pytest.raises(NotUnderstood, match="float_0 returns nothing"):
        body(storage(2))
