"""Float operators as calls of C kernels: axes, steps, constants, and what is refused."""

import pytest
import torch
from torch import fx

from isobit.backends.c.floats.calls import Loop, Softmax, refusal, written
from isobit.backends.fixed_point.floats.steps import FloatCall

aten = torch.ops.aten


def call(target, arguments, *shapes, dtype=torch.float32, **kwargs):
    """A call of `target`; numbers of `shapes` among the arguments stand for tensors."""
    graph = fx.Graph()
    places = [graph.placeholder(f"input_{i}") for i in range(len(shapes))]
    given = fx.node.map_aggregate(arguments, lambda value: places[int(value[1:])] if isinstance(value, str) else value)
    graph.output(graph.call_function(target, tuple(given), kwargs))
    return FloatCall(str(graph), tuple((shape, dtype) for shape in shapes), graph)


def test_a_binary_operator_repeats_along_axes():
    (loop,) = written(call(aten.mul.Tensor, ("t0", "t1"), (1, 3, 4), (4,)))
    assert isinstance(loop, Loop) and loop.operator == "*" and loop.sizes == (1, 1, 3, 4)
    assert [steps for _, steps in loop.sources] == [(0, 0, 4, 1), (0, 0, 0, 1)] and loop.steps == (0, 0, 4, 1)
    (loop,) = written(call(aten.div.Tensor, ("t0", 3.0), (1, 5)))
    assert loop.sources[1][0].number is None and loop.sources[1][0].value == 3.0


def test_a_softmax_goes_along_its_axis():
    assert written(call(aten.softmax.int, ("t0", 1), (1, 5, 6))) == [Softmax(1, 5, 6)]


def test_tensors_are_joined_one_after_the_other():
    first, second = written(call(aten.cat.default, (["t0", "t1"], 2), (1, 3, 4), (1, 3, 2)))
    assert (first.offset, second.offset) == (0, 4) and first.steps == second.steps == (0, 0, 6, 1)
    assert second.sources[0][1] == (0, 0, 2, 1)


def test_a_slice_and_a_transpose_are_lines():
    (loop,) = written(call(aten.slice.Tensor, ("t0", 2, 1, 4, 2), (1, 3, 5)))
    assert loop.sources[0][0].offset == 1 and loop.sources[0][1] == (0, 0, 5, 2) and loop.sizes == (1, 1, 3, 2)
    (loop,) = written(call(aten.permute.default, ("t0", [0, 2, 1]), (1, 3, 5)))
    assert loop.sizes == (1, 1, 5, 3) and loop.sources[0][1] == (0, 0, 1, 5)


@pytest.mark.parametrize("made", [
    call(aten.exp.default, ("t0",), (1, 0)), call(aten.add.Tensor, ("t0", "t1"), (1, 0, 3), (1, 1, 3)),
    call(aten.softmax.int, ("t0", 1), (1, 0, 3)), call(aten.slice.Tensor, ("t0", 1, 2, 2), (1, 5)),
    call(aten.cat.default, (["t0"], 1), (1, 0)),
])
def test_no_element_is_no_call(made):
    assert refusal(made) == "" and written(made) == []


@pytest.mark.parametrize(("made", "reason"), [
    (call(aten.erf.default, ("t0",), (1, 3)), "no float kernel for erf"),
    (call(aten.add.Tensor, ("t0", "t1"), (1, 3), (1, 3), dtype=torch.int64), "float32 only"),
    (call(aten.add.Tensor, ("t0", "t1"), (1, 3), (1, 3), alpha=2), "no float kernel for add"),
    (call(aten.roll.default, ("t0", [1], [1]), (1, 3)), "lie in no lines"),
    (call(aten.mul.Tensor, ("t0", "t1"), (2, 2, 2, 2, 2), (2, 2, 2, 2, 2)), "4 axes, and here are 5"),
])
def test_what_has_no_kernel_is_refused_with_the_reason(made, reason):
    assert reason in refusal(made)
    assert refusal(call(aten.exp.default, ("t0",), (1, 3))) == ""
