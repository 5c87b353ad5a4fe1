"""Calls that read and write where they may and where they may not."""

import numpy as np
import pytest

from isobit.backends.c.readback.calls import Run, logits_of
from isobit.backends.c.readback.memory import line
from isobit.backends.c.readback.scanner import NotUnderstood
from isobit.backends.c.readback.source import Argument, Call, Source
from isobit.backends.readback.description import Terms


@pytest.fixture
def run():
    source = Source("net", {"NET_ARENA_BYTES": "32", "NET_LOGITS": "4"}, arena=True,
                    inputs=(Argument("codes", False, ""),))
    return Run(source, {"codes": 8}, Terms())


def follow(run, reader):
    run.source.calls = [Call("f", ("x",), 1)]
    run.follow({"f": lambda run, _: reader(run)})


def test_an_input_is_read_whole_and_named_tensors_by_their_name(run):
    def reader(run):
        assert str(run.read("codes", 8)) == "tensor 0" and "another count" in str(run.read("codes", 7))
        run.write("a + 8", 8, run.terms.operator("x"))
        run.trace(1, "a + 8", 8)
        assert str(run.read("a + 8", 8)) == "tensor 1" and str(run.tensors["tensor 1"]) == "x"

    follow(run, reader)
    assert run.order == [1] and run.problems == []


@pytest.mark.parametrize(("over", "place", "told"), [((), 0, True), ((0,), 0, False), ((0,), 4, True), ((), 8, False)])
def test_only_what_a_kernel_reads_code_by_code_may_be_written_over(run, over, place, told):
    def reader(run):
        run.write("a", 8, run.terms.operator("x"))
        run.trace(1, "a", 8)
        run.read("a", 8)
        run.write_over(f"a + {place}", 8, run.terms.operator("y"), over)

    follow(run, reader)
    assert bool(run.problems) == told


def test_scratch_lies_over_nothing_that_the_call_reads_or_writes(run):
    def reader(run):
        run.write("a + 0", 8, run.terms.operator("x"))
        run.read("a + 0", 8)
        run.scratch("(int8_t *)(a + 4)", 8)
        run.scratch("(int8_t *)(a + 28)", 8)
        run.scratch("(int8_t *)(a + 8)", 0)
        run.scratch("(int8_t *)(a + 18)", 8)

    follow(run, reader)
    assert [each.field.rpartition(": ")[2] for each in run.problems] == [
        "output", "output", "scratch", "alignment"]


def test_multipliers_are_one_or_one_a_channel(run):
    run.source.arrays["m"] = np.array([5, 6], np.int32)
    follow(run, lambda run: run.factor({"multiplier": "m", "step": 1, "lift": 0}, 2))
    assert not run.problems and run.used == {"m"}
    follow(run, lambda run: run.factor({"multiplier": "m", "step": 0, "lift": 0}, 2))
    assert len(run.problems) == 1


@pytest.mark.parametrize("text", ["b + 1", "(int8_t *)(a + 4)", "a + -4", "v + 0", "a * 2"])
def test_other_pointers_are_not_understood(run, text):
    with pytest.raises(NotUnderstood):
        follow(run, lambda run: run.read(text, 4))


def test_a_function_that_is_no_kernel_is_not_understood(run):
    run.source.calls = [Call("printf", ("x",), 1)]
    with pytest.raises(NotUnderstood, match="printf"):
        run.follow({})


def test_logits_that_are_written_over_or_not_at_all_are_told(run):
    x, y = (run.forms.leaves(run.terms.edge(name), [0, 1], [0, 1]) for name in "xy")
    run.logits.write(line(0, 2), x)
    assert [str(each) for each in logits_of(run.logits).values()] == ["logits", "some logits"]
    run.logits.write(line(1, 2), y)
    found = logits_of(run.logits)
    assert found["logits 0"].get("of") is x and found["logits 1"] is y and len(found) == 3
