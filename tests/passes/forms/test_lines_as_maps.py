"""Networks of one axis: layers of maps, equal numbers, and reshapes only where lines enter and leave."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.passes import prepare
from isobit.passes.forms.lines_as_maps import lines_as_maps
from tests.examples import nets


def layers(*parts):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(part() for part in parts))


NETS = {
    "convolutions": (
        lambda: layers(lambda: nn.Conv1d(6, 8, 3, padding=1), lambda: nn.BatchNorm1d(8), nn.ReLU,
                       lambda: nn.Conv1d(8, 8, 3, padding="same", dilation=2, groups=8), lambda: nn.PReLU(8)),
        ["view", "conv2d", "relu", "conv2d", "prelu", "view"],
    ),
    "pools": (
        lambda: layers(lambda: nn.Conv1d(6, 4, 3, stride=2), lambda: nn.MaxPool1d(2), lambda: nn.AvgPool1d(2),
                       lambda: nn.AdaptiveAvgPool1d(1)),
        ["view", "conv2d", "max_pool2d", "avg_pool2d", "mean", "view"],
    ),
    "transposed": (
        lambda: layers(lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1), nn.ReLU),
        ["view", "conv2d", "relu", "view", "permute", "view", "slice", "view"],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_layers_and_what_follows_them_are_maps(name):
    make, expected = NETS[name]
    captured, x = nets.captured_of(make(), 6, 20)
    graph = prepare(captured.graph)
    assert nets.operators(graph) == expected
    torch.testing.assert_close(nets.run(graph, x), nets.run(captured.graph, x), rtol=1e-5, atol=1e-6)


class Joined(nn.Module):
    """Two branches that are added and joined, a mean over the length, and one reader that wants lines."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, x):
        left, right = self.a(x), self.b(x)
        both = torch.cat([left + right, left * right], 1)
        return both.mean(-1) + both.cumsum(-1)[:, :, -1]


def test_branches_stay_maps_and_other_readers_get_lines():
    captured, x = nets.captured_of(Joined(), 4, 12)
    before = nets.run(captured.graph, x)
    assert lines_as_maps(captured.graph) and not lines_as_maps(captured.graph)
    torch.testing.assert_close(nets.run(captured.graph, x), before, rtol=1e-5, atol=1e-6)
    names = nets.operators(captured.graph)
    assert {"conv2d", "mean", "cumsum"} <= set(names) and "conv1d" not in names
    assert nets.layer_names(captured.graph) == ["a", "b"]


class Computed(nn.Module):
    """Two layers of lines, of which the second computes its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight = nn.Conv1d(4, 4, 3, padding=1), nn.Parameter(torch.arange(36.0).reshape(3, 4, 3) / 36)

    def forward(self, x):
        return nn.functional.conv1d(self.a(x), self.weight.softmax(2))


def test_a_layer_whose_weight_is_computed_stays_one_of_lines():
    captured, x = nets.captured_of(Computed(), 4, 12)
    before = nets.run(captured.graph, x)
    assert lines_as_maps(captured.graph)
    assert {"conv1d", "conv2d"} <= set(nets.operators(captured.graph))
    torch.testing.assert_close(nets.run(captured.graph, x), before, rtol=1e-5, atol=1e-6)
