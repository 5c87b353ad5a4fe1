"""Functions as they must be, of networks that are told by hand."""

import operator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import fx

from isobit.backends.fixed_point.floats.steps import Decode, Encode, FloatCall, Leave
from isobit.backends.fixed_point.floats.tensors import FloatTensor
from isobit.backends.fixed_point.program import Step
from isobit.backends.readback.description import Undescribed
from isobit.backends.tvm.readback.flow import Given, Made, Parameter
from isobit.backends.tvm.readback.processors import PROCESSORS
from isobit.backends.tvm.readback.wanted import WantedModule, operator_of
from tests.backends.tvm.readback.made import small
from tests.examples.programs import Builder

PROCESSOR = PROCESSORS["usdot"]


def told(flow):
    return [(call.kernel.name, *(str(each).split()[-1 if isinstance(each, Given) else 2] for each in call.reads))
            for call in flow.calls]


def test_main_computes_trace_reads_out_and_pieces_takes_over():
    functions = WantedModule(small(), PROCESSOR).functions
    assert list(functions) == ["main", "codes", "trace", "pieces"]
    body = [("conv3x3", "0"), ("conv3x3", "1", "1"), ("global_average", "2"), ("logits", "3"), ("finish", "4")]
    assert told(functions["main"]) == [("quantize", "0"), *body] and functions["main"].returned == (Made(5),)
    assert told(functions["codes"]) == [("enter", "0"), *body]
    assert told(functions["trace"]) == [
        ("quantize", "0"), *body[:-1], ("leave", "0"), ("leave", "1"), ("leave", "2"), ("leave", "3"), ("finish", "4")]
    assert functions["trace"].returned == tuple(map(Made, range(5, 10))) and functions["trace"].several
    assert told(functions["pieces"])[:6] == [
        ("quantize", "0"), ("enter", "1"), ("conv3x3", "1"), ("enter", "2"), ("conv3x3", "3", "3"), ("enter", "3")]
    assert told(functions["pieces"])[-5:] == [
        ("leave", "0"), ("leave", "2"), ("leave", "4"), ("leave", "6"), ("finish", "8")]


def test_parameters_are_the_inputs_then_codes_that_take_over():
    functions = WantedModule(small(), PROCESSOR).functions
    assert functions["main"].parameters == (Parameter("x", (1, 4, 6, 6), "float32"),)
    assert functions["codes"].parameters == (Parameter("x", (1, 6, 6, 4), "uint8"),)
    assert functions["pieces"].parameters[1:3] == (
        Parameter("x1", (1, 6, 6, 4), "uint8"), Parameter("x2", (1, 6, 6, 8), "uint8"))


def in_float(raw):
    """Codes that become values and codes again, and values that leave; `raw`: the input's own values leave, too."""
    net = Builder((2, 2, 3))
    net.add_buffer((2, 2, 3))
    net.steps += [Decode("d", "d", (0,), None, (), 0), Encode("e", "e", (), 1, (0,), None, 3, 255),
                  Decode("f", "f", (1,), None, (), 1), Leave("l", "l", (), None, (1, *([2] if raw else [])), None)]
    values = tuple(FloatTensor(name, (1, 3, 2, 2), "float32") for name in "abc")
    return replace(net.build(1), steps=tuple(net.steps[:4]), logits=(24 if raw else 12,), floats=values,
                   raw={2: 0} if raw else {})


def test_follow_goes_on_from_codes_after_float_operators():
    functions = WantedModule(in_float(False), PROCESSOR).functions
    assert list(functions) == ["main", "codes", "trace", "follow", "pieces"]
    assert told(functions["follow"]) == [
        ("quantize", "0"), ("dequantize", "0"), ("quantize", "1"), ("enter", "1"), ("dequantize", "3"),
        ("leave_float", "4"), ("leave", "0"), ("leave", "2"), ("finish", "5")]


def test_without_codes_where_values_of_inputs_are_read():
    functions = WantedModule(in_float(True), PROCESSOR).functions
    assert list(functions) == ["main", "trace", "follow", "pieces"]
    assert told(functions["main"])[:2] == [("quantize", "0"), ("arrive", "0")]
    assert functions["main"].calls[1].reads == (Given(0),) and functions["main"].calls[5].reads == (Made(4), Made(1))


def test_results_have_the_types_of_their_memory():
    kernels = WantedModule(small(), PROCESSOR).steps
    assert [(kernel.shape, kernel.kind) for kernel in kernels] == [
        ((8 * 8 * 16,), "uint8"), ((6 * 6 * 16,), "uint8"), ((16,), "uint8"), ((8,), "float32")]


def test_an_operator_in_float_is_called_as_torch_calls_it():
    graph = fx.Graph()
    x = graph.placeholder("input_0")
    whole = graph.call_function(torch.ops.aten.lstm.input, (x, [], [], True, 1, 0.0, False, False, True))
    graph.output(graph.call_function(operator.getitem, (whole, 0)))
    assert operator_of(FloatCall(str(graph), (), graph)) == "lstm"
    graph = fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.softmax.int, (graph.placeholder("input_0"), 1)))
    assert operator_of(FloatCall(str(graph), (), graph)) == "softmax"


@dataclass(frozen=True)
class Unknown(Step):
    """A step that no reader knows."""


def test_a_step_without_description_is_said():
    program = small()
    program = replace(program, steps=(Unknown("new", "layer.new", (0,), 1), *program.steps[1:]))
    with pytest.raises(Undescribed, match="a step of Unknown .layer.new."):
        WantedModule(program, PROCESSOR)


def test_inputs_that_nobody_reads_do_not_enter():
    program = small()
    unread = replace(program.buffers[0], quantized=False, name="unread")
    steps = tuple(replace(step, inputs=tuple(number + 1 for number in step.inputs),
                          output=None if step.output is None else step.output + 1) for step in program.steps)
    both = replace(program, buffers=(unread, *program.buffers), steps=steps, input_names=("a", "b"))
    module = WantedModule(both, PROCESSOR)
    assert not module.enters(0) and told(module.functions["main"])[:2] == [("quantize", "1"), ("conv3x3", "0")]
    assert [each.name for each in module.functions["main"].parameters] == ["x", "x1"]
    assert np.prod(module.functions["pieces"].parameters[2].shape) == 6 * 6 * 4
