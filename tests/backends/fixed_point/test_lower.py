"""Every operator, lowered: the oracle on the program gives the codes and the logits of the arithmetic on the graph."""

import numpy as np
import pytest
import torch

from backends.fixed_point.arithmetic import FixedPointArithmetic
from backends.fixed_point.lower import lower
from backends.fixed_point.program import Conv, DequantizeParts, Lookup, Move
from backends.fixed_point.rules import integer_target, unsupported
from pipeline.parity import LOGITS
from tests.backends.fixed_point import oracle
from tests.backends.onnx_qdq.cases import MIDDLES, frozen
from tests.ends import ENDS, frozen_end

TARGET = integer_target("test", "any")
BITS = [(8, 8), (4, 8), (4, 4), (3, 3), (2, 2)]


def input_codes(program, images):
    """round_half_even(x / scale) + zero_point, channels last."""
    scale = np.float32(program.input.scale)
    steps = np.rint(images.numpy() / scale) + program.input.zero_point
    return steps.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def graph_order(buffer, codes):
    """[N, H, W, C] as the tensor stands in the graph."""
    return codes.transpose(0, 3, 1, 2).reshape(len(codes), *buffer.nchw)


@pytest.mark.parametrize("bits", BITS, ids=str)
@pytest.mark.parametrize("name", MIDDLES)
def test_program_and_graph_agree(name, bits):
    reference, images = frozen(name, *bits, target=TARGET)
    images, program = images[:3], lower(reference)
    expected = FixedPointArithmetic(reference).run(images)
    tensors, logits = oracle.run(program, input_codes(program, images))
    found = {b.name: graph_order(b, codes) for b, codes in zip(program.buffers, tensors, strict=True) if b.quantized}
    assert list(found) == [key for key in expected if key != LOGITS]
    for key, codes in found.items():
        assert np.array_equal(codes, expected[key]), key
    assert np.array_equal(logits.view(np.uint32), expected[LOGITS].view(np.uint32))


@pytest.mark.parametrize("name", MIDDLES)
def test_fixed_point_is_within_a_step_of_the_exact_graph(name):
    """Each tensor is compared where its operands are still the same: most codes are, the others one step apart."""
    from backends.exact import ExactArithmetic

    reference, images = frozen(name, target=TARGET)
    exact, fixed = ExactArithmetic(reference).run(images), FixedPointArithmetic(reference).run(images)
    codes = [key for key in exact if key != LOGITS]
    steps = np.concatenate([np.abs(exact[key].astype(int) - fixed[key].astype(int)).ravel() for key in codes])
    assert steps.max() <= 1
    assert np.mean(steps > 0) < 2e-3


def test_a_residual_sum_takes_the_wide_sum_of_one_layer():
    reference, _ = frozen("add", target=TARGET)
    program = lower(reference)
    fused = [step for step in program.steps if isinstance(step, Conv) and step.residual]
    assert len(fused) == 1
    assert program.buffers[fused[0].output].name == "relu_1_q"
    assert not any(buffer.name.startswith("conv2d_1") for buffer in program.buffers)


def test_a_function_is_a_table_and_a_shuffle_is_a_channel_order():
    program = lower(frozen("sigmoid", target=TARGET)[0])
    assert sum(isinstance(step, Lookup) for step in program.steps) == 1
    moves = [step for step in lower(frozen("shuffle", target=TARGET)[0]).steps if isinstance(step, Move)]
    assert moves and all(move.index is None for move in moves)


def test_runs_of_layout_operators_are_one_step():
    moves = [step for step in lower(frozen("pad_slice", target=TARGET)[0]).steps if isinstance(step, Move)]
    assert len(moves) == 1
    assert moves[0].stride == (2, 1) and moves[0].origin == (-2, 1)
    assert moves[0].channels.tolist() == [-1, -1, *range(8), -1, -1, -1]


def test_weights_say_how_many_bits_hold_them():
    for bits, symmetric in ((2, "true"), (3, "false"), (4, "true"), (4, "false"), (8, "true")):
        program = lower(frozen("relu", bits, 8, f"weights.symmetric={symmetric}", target=TARGET)[0])
        for step in program.steps:
            if isinstance(step, Conv):
                fields = step.weights.codes.astype(int) + step.weights.offset.reshape(-1, 1, 1, 1)
                assert step.weights.bits == bits
                assert fields.min() >= 0 and fields.max() < 1 << bits


def test_a_program_is_in_the_order_of_its_reads():
    program = lower(frozen("squeeze_excite", target=TARGET)[0])
    made = {0}
    for step in program.steps:
        assert set(step.inputs) <= made
        made.add(step.output)
    assert torch.tensor(program.logits).tolist() == [5]


@pytest.mark.parametrize("name", ENDS)
def test_results_that_are_laid_out_leave_their_own_grids(name):
    reference, images, expected = frozen_end(name, TARGET)
    assert not list(unsupported(reference.graph, TARGET))
    program = lower(reference)
    _, logits = oracle.run(program, input_codes(program, images))
    found = FixedPointArithmetic(reference).run(images)[LOGITS]
    assert np.array_equal(logits.view(np.uint32), np.ascontiguousarray(found).view(np.uint32))
    # Every number within what 8 bits of its own branch explain; on one grid with the boxes scores would be lost.
    assert np.median(np.abs(logits - expected.numpy()) / (np.abs(expected.numpy()) + 0.01)) < 0.02


def test_parts_have_steps_unless_a_layout_cuts_across_them():
    tables = {name: [len(part.logits) > 0 for step in lower(frozen_end(name, TARGET)[0]).steps
                     if isinstance(step, DequantizeParts) for part in step.parts] for name in ENDS}
    assert tables["detector"] == tables["levels"] == tables["padded"] == [False, False]
    assert any(tables["interleaved"]) and not tables["linear_permuted"]
