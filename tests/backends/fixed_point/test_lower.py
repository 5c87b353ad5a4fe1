"""Every operator, lowered: the oracle on the program gives the codes and the logits of the arithmetic on the graph."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.program import Conv, Dequantize, Lookup, Move
from isobit.backends.fixed_point.rules import integer_target, unsupported
from isobit.pipeline.proof.parity import LOGITS
from isobit.pipeline.recipe.file import load_recipe
from tests.backends.fixed_point import oracle
from tests.examples.ends import ENDS, frozen_end
from tests.examples.onnx_cases import MIDDLES, frozen
from tests.examples.tiny import frozen_reference, quantized_net

F = nn.functional
TARGET = integer_target("test", "any")
BITS = [(8, 8), (4, 8), (4, 4), (3, 3), (2, 2)]


def input_codes(program, images):
    """round_half_even(x / scale) + zero_point, channels last."""
    scale = np.float32(program.input.scale)
    steps = np.rint(images.numpy() / scale) + program.input.zero_point
    return steps.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def graph_order(buffer, codes):
    """[N, H, W, C] as the tensor stands in the graph."""
    codes = codes if buffer.in_order else codes.transpose(0, 3, 1, 2)
    return codes.reshape(len(codes), *buffer.nchw)


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
    """Each tensor is computed from the exact codes before it: most codes are the same, the others one step apart."""
    from isobit.backends.execution.exact import ExactArithmetic

    reference, images = frozen(name, target=TARGET)
    exact = ExactArithmetic(reference).run(images)
    codes = [key for key in exact if key != LOGITS]
    fed = {key: torch.from_numpy(exact[key]) for key in codes}
    fixed = FixedPointArithmetic(reference).execution.run(images, fed)
    steps = np.concatenate([np.abs(exact[key].astype(int) - fixed[key].numpy().astype(int)).ravel() for key in codes])
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


class Built(nn.Module):
    """Convolution, then `rest` of the module and its output."""

    def __init__(self, rest):
        super().__init__()
        self.stem, self.second, self.map = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)
        self.head, self.one, self.rest = nn.Linear(8, 12), nn.Linear(8, 1), rest

    def forward(self, x):
        return self.rest(self, self.stem(x))


def _head(net, x):
    return net.head(x.mean((2, 3)))


def _gated_features(net, x):
    x = x.mean((2, 3))
    return net.head(x * torch.sigmoid(net.one(x)) + net.one(x))


NETWORKS = {
    "view": lambda net, x: _head(net, x).view(-1, 4, 3),
    "view to four axes": lambda net, x: _head(net, x).view(-1, 2, 2, 3),
    "permuted": lambda net, x: _head(net, x).view(-1, 4, 3).permute(0, 2, 1),
    "sliced": lambda net, x: _head(net, x)[:, 2:9:3],
    "padded": lambda net, x: F.pad(_head(net, x).view(-1, 3, 4), (1, 2, 0, 1)),
    "activation of three axes": lambda net, x: torch.sigmoid(_head(net, x).view(-1, 4, 3)),
    "tokens": lambda net, x: net.second(x).flatten(2).transpose(1, 2),
    "anchors": lambda net, x: net.second(x).view(-1, 2, 4, 6, 6).permute(0, 1, 3, 4, 2),
    "gated features": _gated_features,
    "relu after a pool": lambda net, x: _head(net, F.relu(F.max_pool2d(net.second(F.relu(x)), 2))),
    "relu after an average": lambda net, x: _head(net, F.relu(F.avg_pool2d(x, 2))),
    "relu after a concatenation": lambda net, x: _head(net, F.relu(torch.cat([x, net.second(x)], 1))[:, 4:12]),
    "relu6 after layout": lambda net, x: _head(net, F.relu6(F.pad(x.permute(0, 1, 3, 2), (1, 1, 0, 0)))),
    "relu after a product": lambda net, x: _head(net, F.relu(x * net.map(x))),
    "relu of what is read again": lambda net, x: _head(net, x + F.relu(x)),
    "hardtanh of the features": lambda net, x: net.head(F.hardtanh(x.mean((2, 3)), -0.1, 0.2)),
    "sum of a layer and a map": lambda net, x: _head(net, F.relu(net.second(x) + net.map(x))),
    "gate of five axes": lambda net, x: _head(
        net, (x.view(-1, 2, 4, 6, 6) * torch.sigmoid(net.map(x)).unsqueeze(1)).view(-1, 8, 6, 6)),
    "nothing in a concatenation": lambda net, x: _head(net, torch.cat([x, net.second(x)[:, :0]], 1)),
    "batch after channels": lambda net, x: _head(
        net, (lambda y: y + y)(x.permute(1, 0, 2, 3)).permute(1, 0, 2, 3)),
    "sum on a folded batch": lambda net, x: _head(net, (lambda y: y + y)(x.view(-1, 4, 6, 6)).view(-1, 8, 6, 6)),
    "lines of a folded batch": lambda net, x: torch.sigmoid(
        net.head(x.permute(0, 2, 3, 1).reshape(-1, 3, 6, 8))).reshape(-1, 36 * 12),
    "lines before the batch": lambda net, x: torch.sigmoid(
        net.head(x.flatten(2).permute(2, 0, 1))).permute(1, 2, 0),
    "sum of lines before the batch": lambda net, x: (
        lambda y: net.head(y) + torch.sigmoid(net.head(y)))(x.flatten(2).permute(2, 0, 1)).permute(1, 0, 2),
    "folded and back": lambda net, x: _head(net, x.view(-1, 4, 6, 6).permute(0, 2, 3, 1).reshape(-1, 8, 6, 6)),
}


def built(name):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model, images = Built({**NETWORKS, **REFUSED}[name]).eval(), torch.randn(12, 3, 6, 6)
    return model, images


@pytest.mark.parametrize("recipe", ["minmax_w8a8", "nearest_w4a4"])
@pytest.mark.parametrize("name", NETWORKS)
def test_ends_and_activations_anywhere_agree(name, recipe):
    reference, images = frozen_reference(TARGET, recipe, *built(name))
    assert list(unsupported(reference.graph, TARGET)) == []
    program, expected = lower(reference), FixedPointArithmetic(reference).run(images)
    tensors, logits = oracle.run(program, input_codes(program, images))
    for buffer, codes in zip(program.buffers, tensors, strict=True):
        if buffer.quantized:
            assert np.array_equal(graph_order(buffer, codes), expected[buffer.name]), buffer.name
    assert np.array_equal(logits.view(np.uint32), expected[LOGITS].view(np.uint32))


REFUSED = {
    "layer on a folded batch": lambda net, x: net.head(x.permute(0, 2, 3, 1).reshape(-1, 8)).view(-1, 36 * 12),
    "pool on a folded batch": lambda net, x: _head(net, F.max_pool2d(x.view(-1, 4, 6, 6), 2).view(-1, 8, 3, 3)),
    "pool of three axes": lambda net, x: _head(net, F.max_pool2d(x.flatten(2), 2).view(-1, 4, 6, 3).repeat(1, 2, 1, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lowered_is_refused_before_there_are_numbers(name):
    quantized, _ = quantized_net(TARGET, load_recipe("minmax_w8a8"), *built(name))
    found = list(unsupported(quantized.graph, TARGET))
    assert len(found) == 1 and found[0][1]


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
                     if isinstance(step, Dequantize) for part in step.parts] for name in ENDS}
    assert tables["detector"] == tables["levels"] == tables["padded"] == [False, False]
    assert any(tables["interleaved"]) and not tables["linear_permuted"]


@pytest.mark.parametrize("middle", [
    lambda x: torch.softmax(x.flatten(2), 2).sum(2), lambda x: torch.cumsum(x.unsqueeze(1), 2).flatten(2)[:, 0, :3],
])
def test_what_computes_with_a_view_of_the_image_in_float_is_refused_by_name(middle):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 5)

        def forward(self, x):
            return self.head(middle(x))

    target = integer_target("test", "any", float_operators="after_layers")
    quantized, _ = quantized_net(target, load_recipe("minmax_w8a8"), Flat().eval(), torch.randn(4, 3, 6, 6))
    (_, reason), *_ = unsupported(quantized.graph, target)
    assert "no integer kernel" in reason
