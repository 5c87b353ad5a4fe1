"""One step as C: which kernel, which constants, what is folded, and what does not fit."""

import numpy as np
import pytest

from isobit.backends.c.steps import TILE, Writer, is_depthwise, scratch_bytes, write_step
from isobit.backends.fixed_point.program import Move, Program
from isobit.pipeline.errors import TargetError
from tests.backends.fixed_point import oracle
from tests.examples.programs import Builder


def code_of(program, number=0):
    return write_step(program, number, lambda tensor: f"t{tensor}", "scratch")


def text_of(code, name):
    return next(constant for constant in code.constants if f" {name}" in constant)


def test_the_zero_point_is_folded_into_the_bias():
    program = oracle.make_conv((5, 5, 3), 4, zero_points=(7, 9))
    step = program.steps[0]
    folded = step.bias - 7 * step.weights.codes.astype(int).sum((1, 2, 3))
    assert ", ".join(map(str, folded)) in text_of(code_of(program), "bias_0[4]")


def test_calls_name_kernel_tensors_and_scratch():
    assert code_of(oracle.make_conv((5, 5, 3), 4)).calls == ("conv(&conv_0, t0, 0, t1, scratch);",)
    assert code_of(oracle.make_conv((5, 5, 4), 4, groups=4)).calls == ("depthwise(&depthwise_0, t0, 0, t1, scratch);",)
    with_residual = code_of(oracle.make_conv((5, 5, 3), 4, residual_zero=5))
    assert with_residual.calls == ("conv(&conv_0, t0, t1, t2, scratch);",)
    assert ".residual_zero = 5" in with_residual.constants[-1]
    logits = code_of(oracle.make_conv((1, 1, 3), 4, (1, 1), padding=(0, 0, 0, 0), logits=True))
    assert logits.calls == ("conv_logits(&conv_0, t0, scale_0, logits, scratch);",)


def test_a_rescale_of_one_multiplier_for_all_channels_stores_one():
    net = Builder((4, 4, 6))
    net.sum(0, 0)
    code = code_of(net.build(1))
    assert "a_multiplier_0[1]" in text_of(code, "a_multiplier_0")
    assert ".a_term = {a_multiplier_0, 0, " in code.constants[-1]


def test_sizes_are_those_of_the_arrays():
    code = code_of(oracle.make_conv((5, 5, 3), 4, bits=3))
    packed = 4 * -(-27 * 3 // 8)
    assert code.size == packed + 4 * 2 + 4 * 4 + 4 * 4  # weights, offsets, biases, multipliers


@pytest.mark.parametrize(
    ("channels", "groups", "options", "expected"), [
        (8, 1, {}, TILE * 72 * 2), (8, 1, {"bits": 4}, TILE * 72 * 2),
        (8, 1, {"zero_points": (3, 0)}, TILE * 72 * 2 + 72),
        (8, 1, {"dilation": (1, 2), "padding": (2, 2, 2, 2)}, TILE * 72 * 2 + 72), (6, 1, {}, TILE * 56 * 2 + 56),
        (6, 3, {"bits": 2}, TILE * 20 * 2 + 20), (8, 2, {}, TILE * 36 * 2 + 36), (6, 6, {"bits": 4}, TILE * 9 * 2),
        (8, 1, {"logits": True}, 0), (8, 1, {"logits": True, "bits": 4}, TILE * 72),
        (8, 1, {"padding": (0, 0, 0, 0), "kernel": (5, 5)}, 0),
        (8, 1, {"padding": (0, 0, 0, 0), "kernel": (5, 5), "bits": 4}, TILE * 200),
    ]
)
def test_scratch_is_a_tile_of_weights_and_a_window_that_is_copied(channels, groups, options, expected):
    program = oracle.make_conv((5, 5, channels), channels, groups=groups, **options)
    assert scratch_bytes(program, program.steps[0]) == expected
    assert is_depthwise(program.steps[0]) == (groups == channels)


def test_sums_that_leave_32_bits_are_refused_with_the_layer():
    program = oracle.make_conv((5, 5, 3), 4)
    step = program.steps[0]
    step.bias[2] = (1 << 31) - 1000
    with pytest.raises(TargetError, match=r"do not fit the 32 bits(.|\n)*layer"):
        code_of(Program(program.buffers, (step,), ()))


def test_moves_that_move_nothing_are_no_call_and_on_the_input_a_copy():
    net = Builder((4, 4, 6))
    a = net.move(0, (4, 4, 6), range(6))
    program = net.build(net.move(a, (4, 4, 6), range(6)))
    assert code_of(program, 0).calls == ("memcpy(t1, t0, 96);",)
    assert write_step(program, 1, lambda tensor: "same", "scratch").calls == ()


def test_channels_beyond_16_bits_go_by_their_index():
    shape, channels = (1, 1, 40000), np.arange(33000, 39000, dtype=np.int32)
    buffers = (oracle.make_buffer("x", shape), oracle.make_buffer("y", (1, 1, len(channels))))
    move = Move("y", "", (0,), 1, (1, 1), (0, 0), channels, None)
    code = code_of(Program(buffers, (move,), ()))
    assert code.kernels == ("move_indexed",) and "{\n    33000, 33001" in text_of(code, "index_0")


def test_an_average_pool_chooses_its_divisor_where_there_are_several():
    from isobit.backends.fixed_point.program import Window

    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    net = Builder((4, 4, 2))
    net.average_pool(0, window)
    net.average_pool(0, window, count_padding=True)
    program = net.build(1)
    several, one = code_of(program, 0), code_of(program, 1)
    assert "scales_0[3]" in "".join(several.constants) and "choice_0[16]" in "".join(several.constants)
    assert "scales_1[1]" in "".join(one.constants) and ".choice = 0," in one.constants[-1]
    assert np.unique(program.steps[0].divisor).tolist() == [4, 6, 9]


def test_a_step_that_writes_the_logits_writes_no_tensor():
    program = oracle.make_conv((1, 1, 3), 4, (1, 1), padding=(0, 0, 0, 0), logits=True)
    with pytest.raises(ValueError, match="writes the logits, no tensor"):
        Writer(program, 0, str, "scratch").output  # noqa: B018
