"""Operators that torch.onnx writes: the file computes what PyTorch computes, for every size of batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.backends.onnx import by_torch
from isobit.backends.onnx.emit import emit_model
from isobit.backends.onnx.emitters import is_written_by_torch
from isobit.backends.onnx.session import OnnxSession
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.stages import Reference
from tests.backends.onnx.test_emitters import NOTHING, Apply, check, prepared

F = nn.functional
pytestmark = pytest.mark.onnxruntime


class Recurrent(nn.Module):
    """A recurrent layer over the rows of an image, whose first state depends on the size of the batch."""

    def __init__(self, kind, **settings) -> None:
        super().__init__()
        self.layer = kind(48, 5, batch_first=True, **settings)

    def forward(self, x):
        values, _ = self.layer(x.permute(0, 2, 1, 3).flatten(2))
        return values[:, -1]


class Masked(nn.Module):
    """Comparisons, integers and a choice between two tensors."""

    def forward(self, x):
        order = x.argsort(1)
        return torch.where(x > x.mean(1, keepdim=True), x, order.float())


FUNCTIONS = {
    "bilinear": lambda x: F.interpolate(x, size=(11, 5), mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True),
    "trilinear": lambda x: F.interpolate(x.unsqueeze(1), scale_factor=2.0, mode="trilinear"),
    "group_norm": lambda x: F.group_norm(x, 3, torch.arange(6.0), torch.arange(6.0)),
    "instance_norm": F.instance_norm,
    "einsum": lambda x: torch.einsum("nchw,nkhw->nck", x, x),
    "index_select": lambda x: x.index_select(1, torch.tensor([4, 0, 4])),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (5, 3)),
    "std": lambda x: x.std(1),
    "amax": lambda x: x.amax((1, 3)),
    "logsumexp": lambda x: x.logsumexp(1),
    "cumsum": lambda x: x.cumsum(2),
    "roll_by_batch": lambda x: x.roll((1, 2), (1, 2)).cumsum(1),
    "top": lambda x: x.topk(2, 1)[0],
    "conv3d": lambda x: F.conv3d(x.unsqueeze(1), torch.ones(2, 1, 3, 3, 3), padding=1),
}
LAYERS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm_both_ways": lambda: Recurrent(nn.LSTM, bidirectional=True),
    "gru_deep": lambda: Recurrent(nn.GRU, num_layers=2),
    "masked": Masked,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_written(name, tmp_path):
    check(Apply(FUNCTIONS[name]), tmp_path / "model.onnx")
    graph, _ = prepared(Apply(FUNCTIONS[name]))
    assert any(is_written_by_torch(node) for node in graph.graph.nodes if op_name(node))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_written(name, tmp_path):
    check(LAYERS[name](), tmp_path / "model.onnx")


def test_the_same_network_gives_the_same_bytes_and_equal_calls_are_written_once(tmp_path):
    by_torch._written.cache_clear()
    written = []
    for name in ("one", "two"):
        graph, _ = prepared(Apply(lambda x: x.cumsum(1) + x.relu().cumsum(1)))
        emit_model(Reference(graph, _Quantized), tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] and by_torch._written.cache_info().misses == 1


class _Quantized:
    target = NOTHING


def test_a_file_runs_with_another_batch_than_it_was_written_for(tmp_path):
    graph, _ = prepared(Recurrent(nn.GRU))
    emit_model(Reference(graph, _Quantized), tmp_path / "model.onnx")
    session = OnnxSession(tmp_path / "model.onnx", taps=False)
    x = torch.randn(7, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, one = session.run(x)["logits"], session.run(x[3:4])["logits"]
    assert whole.shape == (7, 5) and abs(whole[3:4] - one).max() < 1e-6


def test_entries_of_what_returns_several_tensors_are_no_operators(tmp_path):
    graph, _ = prepared(Apply(lambda x: torch.cat(x.topk(2, 1)[:1] + x.topk(3, 1)[:1], 1)))
    calls = [op_name(node) for node in graph.graph.nodes if op_name(node) and is_written_by_torch(node)]
    assert calls == ["topk", "topk"]
