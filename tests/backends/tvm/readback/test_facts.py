"""What files state beside calls: as it is written, and every other thing told."""

from dataclasses import replace

import pytest

from isobit.backends.tvm.device.device_files import describe
from isobit.backends.tvm.module import ModuleBuilder
from isobit.backends.tvm.profiles import PROFILES
from isobit.backends.tvm.readback.executable import Executable, Function, Instruction, Register
from isobit.backends.tvm.readback.facts import found_facts, wanted_facts
from isobit.backends.tvm.readback.processors import PROCESSORS
from isobit.backends.tvm.readback.wanted import WantedModule
from tests.backends.tvm.harness import needs_tvm
from tests.backends.tvm.readback.made import small
from tests.backends.tvm.readback.test_wanted import in_float
from tests.examples.programs import ds_cnn

PROFILE = PROFILES["aarch64-dotprod"]


def several():
    program = small()
    return replace(program, input_names=("image",), outputs=(("one", (2,)), ("two", (3,))))


@pytest.mark.parametrize("program", [small(), several(), ds_cnn(), in_float(False)],
                         ids=["small", "ports", "ds", "float"])
def test_the_description_is_what_sessions_are_given(program):
    needs_tvm()
    builder = ModuleBuilder(program, PROFILE.flavour)
    said = describe(PROFILE, program, builder.traced, builder.kernel_counts(), builder.followed)
    facts = found_facts(bytes(18) + b"\xb7\x00", Executable({}, (), (), (0, 0)), said)
    wanted = wanted_facts(program, PROFILE, WantedModule(program, PROCESSORS[PROFILE.flavour]))
    assert {key: value for key, value in wanted.items() if key != "functions"} == {
        key: value for key, value in facts.items() if key != "functions"}
    assert set(wanted["functions"]) >= {"main", "trace", "pieces"}


def test_a_number_is_no_truth_and_what_nothing_reads_is_told():
    constants = ("used", "spare", (1, 2))
    function = Function(("x",), 1, (Instruction("", (Register(0),)), Instruction("k", ("used", 3, constants[2]))))
    facts = found_facts(bytes(18) + b"\x3e\x00", Executable({"main": function}, constants, (None,) * 3, (0, 0)),
                        {"trace": True, "logits": 1})
    assert facts == {"machine of the code": 62, "functions": ["main"], "constants that nothing reads": [1],
                     "device.json trace": "true", "device.json logits": "1"}
