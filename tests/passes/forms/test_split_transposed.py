"""Transposed convolutions as convolutions: equal numbers, layers and what runs with them in a row, moves after them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.passes import prepare
from isobit.passes.forms.split_transposed import split_transposed
from tests.examples import nets


class Up(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.up, self.norm, self.last = nn.ConvTranspose2d(6, 4, **settings), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
            self.norm.running_mean.normal_()

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.up(x)))).flatten(1)


SETTINGS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "bias": False},
    {"kernel_size": (3, 5), "stride": (2, 3), "padding": (1, 2), "output_padding": (1, 2)},
    {"kernel_size": 3, "stride": 1, "padding": 1, "groups": 2},
    {"kernel_size": 2, "stride": 3, "output_padding": 2},
    {"kernel_size": 1, "stride": 2, "output_padding": 1},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_numbers_are_equal_and_the_activation_follows_the_layer(settings):
    captured, x = nets.captured_of(Up(**settings), 6, 5, 7)
    graph = prepare(captured.graph)
    names = nets.operators(graph)
    assert "conv_transpose2d" not in names and names[names.index("conv2d") + 1] == "relu" and "batch_norm" not in names
    torch.testing.assert_close(nets.run(graph, x), nets.run(captured.graph, x), rtol=1e-5, atol=1e-5)
    assert nets.layer_names(graph) == ["up", "last"]


def test_twice_is_once_and_dilated_ones_stay():
    captured, _ = nets.captured_of(Up(kernel_size=2, stride=2), 6, 5, 7)
    assert split_transposed(captured.graph) and not split_transposed(captured.graph)
    captured, _ = nets.captured_of(Up(kernel_size=2, stride=2, dilation=2), 6, 5, 7)
    assert not split_transposed(captured.graph)


def test_a_layer_that_runs_twice_keeps_its_own_weight():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)

        def forward(self, x):
            return self.up(self.up(x)).flatten(1)

    captured, x = nets.captured_of(Twice(), 3, 4, 4)
    before = nets.run(captured.graph, x)
    split_transposed(captured.graph)
    torch.testing.assert_close(nets.run(captured.graph, x), before, rtol=1e-5, atol=1e-5)
