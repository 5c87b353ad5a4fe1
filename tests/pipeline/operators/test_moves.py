"""Rows of `MOVES`: the index map is what ATen does, and every target moves codes by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx

from isobit import build as _registers_the_targets  # noqa: F401
from isobit import passes
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import op_name, record_shapes
from isobit.pipeline.operators.index_map import OUTSIDE, index_map, run_move
from isobit.pipeline.operators.moves import MOVES, MoveOperator, is_move
from tests.examples.moved import backend_of, differing_codes, in_float, moved_reference, noise

aten = torch.ops.aten
# One call of every row, of a tensor [N, 4, 6, 6].
CALLS = {
    "view": lambda x: x.reshape(-1, 8, 3, 6),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice": lambda x: x[:, :, 1::2],
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad_with_value": lambda x: F.pad(x, (1, 2, 0, 1), value=-1.5),
    "pad_reflect": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "pad_circular": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "upsample_nearest1d": lambda x: F.interpolate(x.flatten(2), scale_factor=2),
    "upsample_nearest2d": lambda x: F.interpolate(x, scale_factor=(2, 3)),
    "upsample_nearest2d_uneven": lambda x: F.interpolate(x, size=(7, 10)),
    "_upsample_nearest_exact1d": lambda x: F.interpolate(x.flatten(2), size=50, mode="nearest-exact"),
    "_upsample_nearest_exact2d": lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "flip": lambda x: x.flip(1, 3),
    "fliplr": torch.fliplr,
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "roll": lambda x: torch.roll(x, (1, -2), (1, 3)),
    "expand": lambda x: x[:, :, :1].expand(x.shape[0], -1, 3, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 2),
    "tile": lambda x: torch.tile(x, (2, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "unfold": lambda x: x.unfold(2, 3, 2),
}
# What is written with rows and with `cat`.
WRITTEN = {
    "squeeze": lambda x: x.unsqueeze(2).squeeze(2).transpose(2, 3),
    "select": lambda x: x.select(3, -2),
    "narrow": lambda x: x.narrow(2, 1, 3),
    "split": lambda x: x.split([1, 3], 1)[1],
    "chunk": lambda x: x.chunk(2, 3)[1],
    "unbind": lambda x: x.unbind(2)[4],
    "shuffle": lambda x: x.view(-1, 2, 2, 6, 6).transpose(1, 2).reshape(-1, 4, 6, 6).contiguous(),
    "broadcast": lambda x: x[:, :, :1].broadcast_to(x.shape[0], 4, 5, 6),
    "cat_rows": lambda x: torch.cat([x, x[:, :, :2].relu()], 2),
    "cat_columns": lambda x: torch.cat([x.relu(), x[:, :, :, 1:]], 3),
    "cat_channels": lambda x: torch.cat([x, x[:, 1:].relu()], 1),
    "stack": lambda x: torch.stack([x, x.relu()], 2),
    "stack_last": lambda x: torch.stack([x[:, 0], x[:, 1].relu()], 3),
}
ALL = {**CALLS, **WRITTEN}
TARGETS = ("reference", "c", "onnx", "onnx-qoperator", "tvm")


def target(name):
    """The backend, where it can be built for here."""
    if name == "tvm":
        pytest.importorskip("tvm")
    return backend_of(name)


def call_of(name):
    """The node of a row's own call, and the captured graph."""
    graph = capture(_Wrapped(CALLS[name]), torch.randn(1, 4, 6, 6)).graph
    graph = passes.prepare(graph)
    return next(node for node in graph.graph.nodes if op_name(node) == name), graph


class _Wrapped(torch.nn.Module):
    def __init__(self, move):
        super().__init__()
        self.move = move

    def forward(self, x):
        return self.move(x)


def test_every_row_has_a_call_here():
    assert CALLS.keys() == MOVES.keys()


@pytest.mark.parametrize("name", CALLS)
def test_the_index_map_says_what_aten_does(name):
    node, _ = call_of(name)
    shape = [1 if size is None else size for size in node.all_input_nodes[0].meta["shape"]]
    index = index_map(node)
    for seed in range(3):
        x = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(seed))
        moved = run_move(node, x, -7.0).numpy()
        rows = x.reshape(3, -1).numpy()
        expected = np.where(index == OUTSIDE, np.float32(-7), rows[:, np.maximum(index, 0)[0]])
        assert np.array_equal(moved, expected)
    assert (index == OUTSIDE).any() == bool(MOVES[name].fill)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("target_name", TARGETS)
def test_no_code_differs(target_name, name, tmp_path):
    backend = target(target_name)
    reference, images, expected = moved_reference(ALL[name], backend)
    assert differing_codes(reference, images, backend, tmp_path) == 0
    assert noise(backend, reference, images, expected) > 25
    floats = in_float(reference)
    if target_name in ("c", "tvm"):
        assert not floats
    elif target_name != "reference":
        assert set(floats) <= {"pad_with_value"}


@pytest.mark.parametrize("value", [-1e3, 40.0])
@pytest.mark.parametrize("target_name", ["reference", "c", "onnx"])
def test_calibration_sees_the_number_that_a_pad_writes(target_name, value, tmp_path):
    backend = target(target_name)
    reference, images, _ = moved_reference(lambda x: F.pad(x, (1, 1), value=value), backend)
    assert differing_codes(reference, images, backend, tmp_path) == 0


@pytest.mark.parametrize("move", [
    lambda x: x.flip(0), lambda x: torch.roll(x, 1, 0), lambda x: torch.roll(x, 3),
    lambda x: torch.fliplr(x.transpose(0, 1)).transpose(0, 1),
])
def test_what_mixes_samples_is_refused_by_its_line(move):
    with pytest.raises(CaptureError, match="other samples of its batch"):
        capture(_Wrapped(move), torch.randn(1, 4, 6, 6))


def test_other_overloads_are_other_operators():
    graph = fx.Graph()
    x = graph.placeholder("x")
    counts = graph.call_function(aten.repeat_interleave.self_Tensor, (x, torch.tensor([1, 2]), 1))
    assert op_name(counts) == "repeat_interleave_self_Tensor"
    assert not is_move(op_name(counts))
    assert not is_move("pad_with_value")


@torch.library.custom_op("throwaway::interleave_rows", mutates_args=())
def interleave_rows(x: torch.Tensor, border: float) -> torch.Tensor:
    """Even rows before odd ones, channels turned by the row, a column of `border` at the end."""
    rows = torch.cat([x[:, :, 0::2], x[:, :, 1::2]], 2)
    turned = torch.stack([rows[:, :, row].roll(row, 1) for row in range(rows.shape[2])], 2)
    return F.pad(turned, (0, 1), value=border)


@interleave_rows.register_fake
def _(x, border):
    return x.new_empty(*x.shape[:3], x.shape[3] + 1)


@pytest.mark.parametrize("target_name", TARGETS)
def test_a_new_operator_is_one_row(target_name, tmp_path, monkeypatch):
    backend = target(target_name)
    overload = torch.ops.throwaway.interleave_rows.default
    monkeypatch.setitem(MOVES, "interleave_rows", MoveOperator((overload,), fill="border"))
    reference, images, expected = moved_reference(lambda x: interleave_rows(x, 0.0), backend)
    assert any(op_name(node) == "interleave_rows" for node in reference.graph.graph.nodes)
    assert differing_codes(reference, images, backend, tmp_path) == 0
    assert noise(backend, reference, images, expected) > 25
    assert target_name == "reference" or not in_float(reference)
    record_shapes(reference.graph)
