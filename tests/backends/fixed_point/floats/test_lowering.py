"""Float operators as steps: what an interpreter of the steps gives is what the arithmetic on the graph gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.floats.steps import Compute, Decode, Encode, Leave
from isobit.backends.fixed_point.lower import float_calls, lower
from isobit.backends.fixed_point.rules import integer_target, unsupported
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.target import Target
from tests.backends.fixed_point import oracle
from tests.examples.islands import AFTER, INSIDE, MINMAX, frozen_island, network
from tests.examples.tiny import quantized_net

ANYWHERE = integer_target("test", "any", float_operators="anywhere")
AFTER_LAYERS = integer_target("test", "any", float_operators="after_layers")


def run_one(program, image):
    """Codes by name in the graph's shapes and the logits, of one image [1, C, H, W], by the docstrings of the steps."""
    codes = {number: (np.rint(image / np.float32(buffer.scale)) + buffer.zero_point).clip(0, 255)[0].transpose(1, 2, 0)
             for number, buffer in enumerate(program.inputs) if buffer.quantized}
    values = {number: torch.from_numpy(image) for number in program.raw}
    logits = np.full(int(np.prod(program.logits)), np.nan, np.float32)
    for step in program.steps:
        first, count = program.logits_of(step)
        inputs = [codes[number].astype(np.int64) for number in step.inputs]
        match step:
            case Decode():
                buffer, (given,) = program.buffers[step.inputs[0]], inputs
                given = given if buffer.in_order else given.transpose(2, 0, 1)
                value = (given - buffer.zero_point).astype(np.float32) * np.float32(buffer.scale)
                values[step.writes] = torch.from_numpy(value.reshape(program.floats[step.writes].shape))
            case Compute():
                module = torch.fx.GraphModule({}, step.call.graph)
                values[step.writes] = module(*(values[i] for i in step.reads), *map(torch.from_numpy, step.parameters))
            case Encode():
                buffer, value = program.buffers[step.output], values[step.reads[0]].detach().numpy()
                found = (np.rint(value / np.float32(buffer.scale)) + buffer.zero_point).clip(step.low, step.high)
                height, width, channels = buffer.shape
                codes[step.output] = (found.reshape(buffer.shape) if buffer.in_order
                                      else found.reshape(channels, height, width).transpose(1, 2, 0))
            case Leave():
                left = [values[i].detach().numpy().ravel() for i in step.reads]
                logits[first:first + count] = np.concatenate(left)
            case _:
                result = oracle.compute(program, step, [value[None] for value in inputs])[0]
                if step.output is None:
                    logits[first:first + count] = result.ravel()
                else:
                    codes[step.output] = result
    named = {}
    for number, buffer in enumerate(program.buffers):
        if buffer.quantized:
            found = codes[number] if buffer.in_order else codes[number].transpose(2, 0, 1)
            named[buffer.name] = found.reshape(buffer.nchw)
    return named, logits


@pytest.mark.parametrize("name", [*INSIDE, *AFTER])
def test_steps_and_graph_agree(name):
    reference, images = frozen_island(name, ANYWHERE if name in INSIDE else AFTER_LAYERS)
    assert not unsupported_of(name, ANYWHERE)
    program, arithmetic = lower(reference), FixedPointArithmetic(reference)
    assert any(isinstance(step, Compute) for step in program.steps)
    expected = arithmetic.run(images[:1])
    named, logits = run_one(program, images[:1].numpy())
    assert set(named) == set(expected) - set(arithmetic.outputs)
    for key, codes in named.items():
        # A float operator of one sample may round otherwise than of many; what follows such a code, as well.
        assert np.abs(codes - expected[key][0].astype(int)).max() <= 1, key
        assert np.mean(codes != expected[key][0]) < 0.02, key
    wanted = np.concatenate([expected[output].ravel() for output in arithmetic.outputs])
    same = all(np.array_equal(codes, expected[key][0]) for key, codes in named.items())
    assert np.abs(logits.ravel() - wanted).max() <= (1e-5 if same else 0.02 * np.ptp(wanted))


def unsupported_of(name: str, target: Target) -> list[str]:
    quantized, _ = quantized_net(target, MINMAX, *network(name))
    return [f"{op_name(node)}: {reason}" for node, reason in unsupported(quantized.graph, target)]


@pytest.mark.parametrize("name", INSIDE)
def test_between_layers_a_float_operator_is_refused_without_permission(name):
    (reason,) = unsupported_of(name, AFTER_LAYERS)
    assert "test has no integer kernel for" in reason


@pytest.mark.parametrize("name", AFTER)
def test_after_the_last_layer_it_is_not(name):
    assert not unsupported_of(name, AFTER_LAYERS)
    assert unsupported_of(name, integer_target("test", "any")) == ["softmax: test has no integer kernel for softmax"]


def test_boundaries_are_the_quantizers_right_after_float_operators():
    arithmetic = FixedPointArithmetic(frozen_island("two islands", ANYWHERE)[0])
    assert arithmetic.float_boundaries == ("softmax_q", "softmax_1_q")
    assert not arithmetic.float_outputs
    assert FixedPointArithmetic(frozen_island("scores", AFTER_LAYERS)[0]).float_outputs == ("logits",)


def test_a_session_s_codes_are_followed_after_a_boundary_only():
    reference, images = frozen_island("softmax", ANYWHERE)
    arithmetic = FixedPointArithmetic(reference)
    plain = arithmetic.run(images)
    moved = {name: codes + (codes < 255) for name, codes in plain.items() if codes.dtype == np.uint8}
    followed = arithmetic.follow(images, moved).results
    assert np.array_equal(followed["softmax_q"], plain["softmax_q"])
    assert np.array_equal(followed["conv2d_q"], plain["conv2d_q"])
    assert not np.array_equal(followed["conv2d_1_q"], plain["conv2d_1_q"])


def test_the_calls_of_a_plan_are_named():
    quantized, _ = quantized_net(ANYWHERE, MINMAX, *network("two islands"))
    calls = float_calls(quantized.graph, ANYWHERE)
    assert [op_name(node) for node, _ in calls] == ["softmax", "softmax"]
    assert calls[0][1] == calls[1][1]  # written alike: a backend compiles it once
