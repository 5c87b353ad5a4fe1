"""A constant that is written to becomes the parameter that each reader saw."""

from __future__ import annotations

import torch
from torch import nn

from isobit.pipeline.capture.constants import settle_constants
from isobit.pipeline.graph.nodes import op_name
from tests.examples import nets


class Masked(nn.Module):
    def forward(self, x):
        mask = x.new_zeros((4, 4))
        before = x + mask
        mask[1:3, :2] = 1.0
        mask[0] += 2.0
        return (before * mask).flatten(1)


class Made(nn.Module):
    def forward(self, x):
        return (x + torch.ones(4) * 2).flatten(1)


def test_reads_before_and_after_a_write_get_each_their_own():
    captured, x = nets.captured_of(Masked(), 3, 4, 4)
    assert torch.equal(captured.graph(x), Masked()(x))
    names = [op_name(node) for node in captured.graph.graph.nodes]
    assert not {"fill_", "add_", "new_zeros"} & set(names)
    values = [value for name, value in captured.graph.named_parameters() if name.startswith("constants.")]
    assert sorted(float(value.sum()) for value in values) == [0.0, 12.0]


def test_constants_without_writes_are_left_to_the_passes():
    captured, _ = nets.captured_of(Made(), 3, 4, 4)
    assert "ones" in [op_name(node) for node in captured.graph.graph.nodes]
    assert not settle_constants(captured.graph)
