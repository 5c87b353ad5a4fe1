"""Counting: exact, the same on every run, and told apart by step."""

import re
import shutil

import pytest

from isobit.backends.c.device_runner import SOURCE
from isobit.pipeline.errors import ParityError, TargetError
from tests.backends.c.compiled import needs_emulator, write
from tests.examples.programs import Builder
from tools.instructions import counting
from tools.instructions.counting import ENDS, HELIUM, PLAIN, TIMERS, count, count_steps, instructions

LOOPS = 1000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    net = Builder((8, 8, 8), zero_points=False)
    first = net.conv(net.conv(0, 8), 8, groups=8)
    return write(net.build(net.lookup(first)), tmp_path_factory.mktemp("net"), "cortex-m4")


@pytest.mark.parametrize("count", [1, 2, 5, 1000, 17_689_152])
def test_ticks_tell_instructions_apart(count):
    assert instructions(count * 128 // 40) == instructions(-(-count * 128 // 40)) == count
    assert instructions(count * 4096 // 1000, HELIUM) == instructions(-(-count * 4096 // 1000), HELIUM) == count


@needs_emulator
@pytest.mark.parametrize("machine", TIMERS)
def test_every_instruction_is_counted(artifact, machine, tmp_path):
    """A loop of two instructions and one around it are put into the network."""
    text = (artifact / SOURCE).read_text()
    loop = f'\n    __asm__ volatile("mov r3, #{LOOPS}\\n1: subs r3, #1\\n bne 1b" ::: "r3", "cc");\n'
    changed = re.sub(r"(\n}\n\nvoid net_quantize)", lambda found: loop + found[0], text)
    assert changed != text
    shutil.copytree(artifact, tmp_path, dirs_exist_ok=True)
    (tmp_path / SOURCE).write_text(changed)
    options = ["-O1", "-fno-schedule-insns", "-fno-schedule-insns2"]
    more = count(tmp_path, options, machine) - count(artifact, options, machine)
    assert abs(more - (2 * LOOPS + 1)) <= 2  # a register is kept around it


@needs_emulator
def test_steps_make_up_a_run_and_plain_c_takes_more(artifact):
    whole, steps = count(artifact, ["-O2"]), count_steps(artifact, ["-O2"])
    assert list(steps) == ["t0", "t1", "t2", "t3", ENDS] and min(steps.values()) >= 0
    assert 0.9 * whole < sum(steps.values()) < 1.1 * whole
    plain = count_steps(artifact, [*PLAIN, "-O2"])
    assert plain["t1"] > 1.5 * steps["t1"] and plain["t2"] > steps["t2"]


@needs_emulator
def test_a_program_that_fails_and_a_clock_that_does_not_follow_are_errors(artifact, monkeypatch):
    with pytest.raises(TargetError, match="refuses"):
        count(artifact, ["-DNO_NUMBER=", "-Dmain=int"])
    answers = iter([[10], [20], [31]])
    monkeypatch.setattr(counting, "_counted", lambda *_: next(answers))
    with pytest.raises(ParityError, match="a second run takes 10 instructions and a third 11"):
        count(artifact)
