"""Canonical form: the expected operators, the same numbers bit for bit, a second run that finds nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.passes.canonicalize import canonicalize
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import bound_args, module_path, op_name, source_line, tensor_shape
from tests.examples import nets


class Call(nn.Module):
    """A function of the input as a model, with one parameter and one weight-normed layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))

    def forward(self, x):
        return self.function(self, x)


def captured(function, *shape):
    return nets.captured_of(Call(function), *(shape or (4, 6, 6)))


def canonical(function, *shape):
    """The canonical graph of a function, having checked numbers and idempotence."""
    stage, x = captured(function, *shape)
    graph = stage.graph
    before = nets.run(graph, x.clone())
    canonicalize(graph)
    assert torch.equal(nets.run(graph, x.clone()), before)
    after = nets.snapshot(graph)
    assert not canonicalize(graph)
    assert nets.snapshot(graph) == after
    return graph


@pytest.mark.parametrize("name", nets.NETS)
def test_every_net_keeps_its_numbers_and_is_canonical_after_one_run(name):
    stage, x = nets.captured_net(name)
    before = nets.run(stage.graph, x.clone())
    canonicalize(stage.graph)
    assert torch.equal(nets.run(stage.graph, x.clone()), before)
    assert not canonicalize(stage.graph)
    for node in stage.graph.graph.nodes:
        assert node.op == "output" or tensor_shape(node), node


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: torch.cat([x, torch.zeros(0), x], 1), ["cat"]),
        (lambda m, x: torch.relu(torch.cat([torch.tensor([]), x], 1)), ["relu"]),
        (lambda m, x: torch.cat([x, x[:, 4:]], 1) + x, ["add"]),
        (lambda m, x: torch.cat([x, torch.zeros(0, 4, 6, 6)], 0) + x, ["add"]),
        (lambda m, x: torch.concat([torch.zeros(0), x, x], 1), ["cat"]),
    ],
)
def test_tensors_without_elements_leave_a_concatenation(function, expected):
    graph = canonical(function)
    assert [op_name(node) for node in graph.graph.nodes if node.op == "call_function"] == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: F.dropout(x, training=False).contiguous().clone().detach() + x, ["add"]),
        (lambda m, x: F.relu6(x), ["hardtanh"]),
        (lambda m, x: torch.clamp(x, min=0), ["relu"]),
        (lambda m, x: x.clamp_min(0.0), ["relu"]),
        (lambda m, x: x.clamp(-1, 2), ["hardtanh"]),
        (lambda m, x: x.clamp(max=2), ["hardtanh"]),
        (lambda m, x: x.clamp(min=0.5), ["hardtanh"]),
        (lambda m, x: x.clamp(0.5, -0.5), ["hardtanh"]),
        (lambda m, x: torch.ops.aten.hardtanh(x, 0.5, -0.5), ["hardtanh"]),
        (lambda m, x: torch.flatten(x, 1), ["view"]),
        (lambda m, x: x.view(x.size(0), -1), ["view"]),
        (lambda m, x: x.reshape(-1, 4 * 36).unsqueeze(1).squeeze(1), ["view", "view", "view"]),
        (lambda m, x: x.view(x.shape), []),
        (lambda m, x: x.transpose(-1, 1), ["permute"]),
        (lambda m, x: x.permute(0, -1, 1, 2), ["permute"]),
        (lambda m, x: x.permute(0, 1, -2, -1) + 1, ["add_constant"]),
        (lambda m, x: x[:, 1:, ::2, -3:], ["slice", "slice", "slice"]),
        (lambda m, x: x[:, :], []),
        (lambda m, x: x[:, 0:99], []),
        (lambda m, x: F.pad(x, (0, 0)) * 2, ["mul_constant"]),
        (lambda m, x: F.pad(x, (1, 2, 0, 1)), ["pad"]),
        (lambda m, x: F.pad(x, (1, 2), value=1.0), ["pad_with_value"]),
        (lambda m, x: F.pad(x, (1, 2, 1, 1), mode="reflect"), ["pad_reflect"]),
        (lambda m, x: x.float().to(torch.float32).type_as(x) + x, ["add"]),
        (lambda m, x: x.to(torch.float64).float(), ["to", "to"]),
    ],
)
def test_one_form_for_each_thing(function, expected):
    assert nets.operators(canonical(function)) == expected


@pytest.mark.parametrize(
    ("split", "ends"),
    [
        (lambda x: x.chunk(2, 1), [(0, 2), (2, 4)]),
        (lambda x: x.chunk(3, -1), [(0, 2), (2, 4), (4, 6)]),
        (lambda x: torch.split(x, 4, dim=2), [(0, 4), (4, 6)]),
        (lambda x: torch.split(x, [1, 3], dim=1), [(0, 1), (1, 4)]),
    ],
)
def test_splits_become_slices_with_literal_ends(split, ends):
    graph = canonical(lambda m, x: sum(piece.mean((1, 2, 3)) for piece in split(x)).unsqueeze(1))
    slices = [bound_args(node) for node in graph.graph.nodes if nets.op_name(node) == "slice"]
    assert [(args["start"], args["end"]) for args in slices] == ends


def test_a_piece_that_nobody_reads_is_dropped():
    assert nets.operators(canonical(lambda m, x: x.chunk(2, 1)[1])) == ["slice"]


@pytest.mark.parametrize(("kernel", "dilation", "padding"), [(3, 1, [1, 1]), ((1, 5), 2, [0, 4]), ((3, 4), 1, [0, 0])])
def test_same_padding_becomes_numbers(kernel, dilation, padding):
    conv = nn.Conv2d(4, 4, kernel, padding="same", dilation=dilation)
    stage, x = nets.captured_of(conv, 4, 9, 9)
    before = nets.run(stage.graph, x)
    canonicalize(stage.graph)
    assert torch.equal(nets.run(stage.graph, x), before)
    node = nets.find(stage.graph, "conv2d")
    assert list(bound_args(node)["padding"]) == padding
    assert nets.operators(stage.graph) == (["pad"] if padding == [0, 0] else []) + ["conv2d"]


@pytest.mark.parametrize(("kernel", "dilation", "kept"), [
    ((3, 1), (1, 2), [1, 1]), ((1, 3), 2, [1, 2]), (1, 3, [1, 1]), (3, 2, (2, 2)),
])
def test_a_single_tap_has_no_dilation(kernel, dilation, kept):
    stage, x = nets.captured_of(nn.Conv2d(4, 4, kernel, (1, 2), (0, 1), dilation, groups=2), 4, 9, 9)
    before = nets.run(stage.graph, x)
    assert canonicalize(stage.graph) == (kept != (2, 2)) and not canonicalize(stage.graph)
    assert torch.equal(nets.run(stage.graph, x), before)
    assert list(bound_args(nets.find(stage.graph, "conv2d"))["dilation"]) == list(kept)


def test_uneven_padding_has_more_after_and_carries_the_layer_origin():
    graph = nets.captured_net("paddings")[0].graph
    canonicalize(graph)
    pad = nets.find(graph, "pad")
    assert list(bound_args(pad)["pad"]) == [3, 3, 0, 1]
    assert module_path(pad) == "even"


def test_in_place_operators_become_functional_and_later_readers_read_the_result():
    def overwrite(m, x):
        y = x * 1.5
        z = y + 1
        y.add_(z).mul_(2)
        y.relu_()
        z -= y
        return y + z

    names = nets.operators(canonical(overwrite))
    assert not [name for name in names if name.endswith("_")]


def test_overwriting_a_view_is_fine_where_only_the_view_is_read():
    names = nets.operators(canonical(lambda m, x: F.relu((x * 2).view(x.shape[0], -1), inplace=True)))
    assert names == ["mul_constant", "view", "relu"]


def test_pieces_of_a_split_do_not_overlap():
    def halves(m, x):
        left, right = (x * 2).chunk(2, 1)
        return torch.cat([left.relu_(), right], 1)

    assert sorted(nets.operators(canonical(halves))) == ["cat", "mul_constant", "relu", "slice", "slice"]


def part(m, x):
    y = x * 2
    y[:, :1].relu_()
    return y


def through_view(m, x):
    y = x * 2
    flat = y.view(x.shape[0], -1)
    y.relu_()
    return flat


@pytest.mark.parametrize("function", [part, through_view])
def test_overwriting_shared_memory_is_refused_at_its_line(function):
    graph = captured(function)[0].graph
    with pytest.raises(CaptureError, match="read again") as error:
        canonicalize(graph)
    assert f"test_canonicalize.py:{Call.forward.__code__.co_firstlineno + 1}" in error.value.where


def test_weight_norm_becomes_a_weight():
    graph = canonical(lambda m, x: m.normed(x), 3, 6, 6)
    assert nets.operators(graph) == ["conv2d"]


def test_arithmetic_on_parameters_becomes_a_weight():
    assert nets.operators(canonical(lambda m, x: F.conv2d(x, weight=m.weight / 2 + 1), 3, 6, 6)) == ["conv2d"]


@pytest.mark.parametrize(
    ("function", "name", "position", "value", "words"),
    [
        (lambda m, x: x[:, 1:], "slice", 1, 0, "slice of the batch"),
        (lambda m, x: x[:, 1:].reshape(x.shape[0], -1), "slice", 3, "sym_size", "depend on the batch"),
        (lambda m, x: torch.cat(x.chunk(2, -3), 1), "chunk", 2, 0, "along the batch"),
    ],
)
def test_what_cannot_be_static_is_refused(function, name, position, value, words):
    """Programs that somebody exported elsewhere can hold these forms; ours are refused when they are captured."""
    graph = captured(function)[0].graph
    node = [n for n in graph.graph.nodes if nets.op_name(n) == name][-1]
    node.update_arg(position, nets.find(graph, value) if isinstance(value, str) else value)
    with pytest.raises(CaptureError, match=words):
        canonicalize(graph)


def test_active_dropout_is_refused():
    graph = nets.captured_net("residual")[0].graph
    nets.find(graph, "dropout").update_arg(2, True)
    with pytest.raises(CaptureError, match="training mode"):
        canonicalize(graph)


def test_rewritten_nodes_keep_their_origin():
    graph = nets.captured_net("shuffle")[0].graph
    canonicalize(graph)
    assert module_path(nets.find(graph, "slice")) == "blocks.0"
    assert source_line(nets.find(graph, "permute")).startswith("nets.py:")


@pytest.mark.parametrize(("function", "joined"), [
    (lambda m, x: torch.relu(torch.cat([x, m.weight[:0].flatten()], 1)), 0),
    (lambda m, x: torch.cat([m.weight[:0, 0, 0, 0], x, torch.relu(x)], 1), 2),
    (lambda m, x: torch.relu(torch.cat([x, x[:, :0]], 1)), 0),
    (lambda m, x: torch.cat([x, torch.relu(x)], 1), 2),
])
def test_what_has_no_elements_is_not_joined(function, joined):
    graph = canonical(function)
    found = [len(node.args[0]) for node in graph.graph.nodes if "aten.cat" in str(node.target)]
    assert found == ([joined] if joined else [])
    assert all(0 not in tensor_shape(node) for node in graph.graph.nodes)
