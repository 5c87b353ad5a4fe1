"""What the files state of themselves."""

import re

import pytest

from isobit.backends.c.constants import argument_names, describe_outputs
from isobit.backends.c.readback.facts import counted, identifier, sizes_of, wanted_facts, written_name
from isobit.backends.c.readback.scanner import NotUnderstood
from isobit.backends.readback.description import Float32
from tests.backends.c.readback.test_layers import followed
from tests.backends.fixed_point import oracle


@pytest.mark.parametrize(("name", "expected"), [
    ("Little Net", "little_net"), ("9x", "model_9x"), ("_a--b_", "a_b"), ("ß", "model")])
def test_names_become_identifiers(name, expected):
    assert identifier(name) == expected


@pytest.mark.parametrize("names", [
    ["x", "y"], ["x", "X", "x_1"], ["a.b", "a_b", "a b"], ["", "model"], ["a", "a", "a_0", "a_0_0"], ["x_y", "x"]])
@pytest.mark.parametrize("inputs", [["x"], ["x", "a.b"], ["a", "A", "x_1"]])
def test_names_that_are_written_are_those_that_are_read_and_no_others(names, inputs):
    arguments = [each.removeprefix("in_") for each in argument_names(inputs)] if len(inputs) > 1 else []
    for name, found in zip(inputs, arguments, strict=False):
        assert re.fullmatch(written_name(name, inputs), found)
    written = describe_outputs("net", inputs, [(name, (1,)) for name in names])
    for name, each in zip(names, written, strict=True):
        pattern = f"NET_{written_name(name, names, arguments).upper()}"
        assert re.fullmatch(pattern, each["guard"]) and not re.fullmatch(pattern, f"{each['guard']}X")


@pytest.mark.parametrize(("names", "taken", "right", "wrong"), [
    (["x", "X"], (), "x_0", "x"), (["x", "y"], (), "x", "x_0"), (["x", "y"], ("x",), "x_0", "x")])
def test_a_number_stands_only_behind_a_name_that_two_have(names, taken, right, wrong):
    pattern = written_name("x", names, taken)
    assert re.fullmatch(pattern, right) and not re.fullmatch(pattern, wrong)


def test_what_must_be_stated_is_the_programs():
    program = oracle.make_conv((5, 5, 3), 4, bits=3)
    facts = wanted_facts(program, "generic", "net")
    assert facts["packed weights"] and facts["order of tensors"] == (0, 1) and facts["json name"] == "net"
    assert facts["input 0 INPUT_BYTES"] == 75 and facts["input 0 INPUT_SCALE"] == Float32.of(program.input.scale)


def test_sizes_and_kernels_are_counted_from_what_was_followed(tmp_path):
    run = followed(oracle.make_conv((5, 5, 3), 4), tmp_path)
    facts = counted(run.source, run)
    assert facts["macro constants"] == sum(each.nbytes for each in run.source.arrays.values())
    assert facts["kernels"] == tuple(sorted(run.source.kernels)) and facts["macro arena"] == run.arena.size


def test_a_size_that_is_no_number_is_an_error(tmp_path):
    run = followed(oracle.make_conv((5, 5, 3), 4), tmp_path)
    run.source.macros["NET_INPUT_BYTES"] = "x"
    with pytest.raises(NotUnderstood, match="NET_INPUT_BYTES"):
        sizes_of(run.source)
