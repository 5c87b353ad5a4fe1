"""Quantized values whose first axis is not the batch are marked; all others are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.passes import mark_samples
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.capture.sample_layout import META, Samples
from isobit.pipeline.graph.nodes import op_name, quantizer_of
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets


class Folded(nn.Module):
    """Half of the channels as further samples, then channels before the batch."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.shared(torch.relu(self.stem(x)).view(-1, 4, 6, 6))).view(-1, 8, 6, 6)
        x = x.permute(1, 0, 2, 3)
        return self.head((x + x.flip(2)).permute(1, 0, 2, 3).mean((2, 3)))


def placed(model, images):
    return passes.quantize(capture(model.eval(), images[:1]), load_recipe("minmax_w8a8"), TARGETS["generic"]).graph


def test_folded_and_moved_batches_are_marked():
    graph = placed(Folded(), torch.randn(2, 3, 6, 6))
    found = {node: node.meta[META] for node in graph.graph.nodes if META in node.meta}
    quantized = [samples for node, samples in found.items() if quantizer_of(graph, node)]
    assert quantized == [Samples(0, 1, 2), Samples(1, 1, 1)]
    moved = {op_name(node): samples for node, samples in found.items() if not quantizer_of(graph, node)}
    assert moved == {"view": Samples(0, 1, 2), "permute": Samples(1, 1, 1), "flip": Samples(1, 1, 1)}
    assert mark_samples(graph)


@pytest.mark.parametrize("name", ["paddings", "floats"])
def test_ordinary_networks_have_no_marks(name):
    captured, _ = nets.captured_net(name)
    graph = passes.quantize(captured, load_recipe("minmax_w8a8"), TARGETS["generic"]).graph
    mark_samples(graph)
    assert not any(META in node.meta for node in graph.graph.nodes if quantizer_of(graph, node) is not None)


class Standardised(nn.Module):
    """Every image by its own mean and deviation: 0/0 on an image of zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))


def test_what_divides_by_its_own_size_keeps_its_batch():
    graph = placed(Standardised(), torch.randn(2, 3, 6, 6))
    assert not any(META in node.meta for node in graph.graph.nodes)
