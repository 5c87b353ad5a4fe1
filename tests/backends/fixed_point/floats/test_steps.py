"""Calls that are written alike are one."""

from __future__ import annotations

import torch
from torch import fx

from isobit.backends.fixed_point.floats.steps import Compute, FloatCall, FloatStep


def call(shape):
    graph = fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.erf.default, (graph.placeholder("input_0"),)))
    return FloatCall(str(graph), ((shape, torch.float32),), graph)


def test_equal_text_and_arguments_make_equal_calls():
    assert call((1, 2)) == call((1, 2)) and hash(call((1, 2))) == hash(call((1, 2)))
    assert call((1, 2)) != call((1, 3))


def test_a_step_in_float_reads_no_codes():
    step = Compute("erf", "", (), None, (0,), 1, call((1, 2)), ())
    assert isinstance(step, FloatStep) and not step.inputs
