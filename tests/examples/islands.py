"""Small networks with float operators before, between and after integer layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target
from tests.examples.tiny import frozen_reference

MINMAX = "minmax_w8a8"


class Island(nn.Module):
    """Layers to put float operators between; `rest` of the module and its input is the network."""

    def __init__(self, rest: Callable[[Island, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.norm, self.lstm = nn.LayerNorm([8, 6, 6]), nn.LSTM(8, 8, batch_first=True)
        self.raw = nn.GRU(6, 8, batch_first=True)
        self.rest = rest

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, x)


def _classes(net: Island, x: Tensor) -> Tensor:
    return net.head(x.mean((2, 3)))


def _attention(net: Island, x: Tensor) -> Tensor:
    """Two inputs of the island: a map of scores, and what they weigh."""
    y = net.stem(x)
    return _classes(net, net.second(torch.softmax(y, 1) * torch.erf(net.second(y))))


def _joined(net: Island, x: Tensor) -> Tensor:
    y = net.stem(x)
    return torch.softmax(torch.cat([y.flatten(2), net.second(y).flatten(2)], 2), 1)


# The float operator is between layers: allowed by the option alone.
INSIDE: dict[str, Callable[[Island, Tensor], Any]] = {
    "softmax": lambda net, x: _classes(net, net.second(torch.softmax(net.stem(x), 1))),
    "layer norm": lambda net, x: _classes(net, net.second(net.norm(net.stem(x)))),
    "lstm": lambda net, x: net.head(net.lstm(net.stem(x).flatten(2).transpose(1, 2)[:, :5])[0][:, -1]),
    "two islands": lambda net, x: _classes(net, torch.softmax(net.second(torch.softmax(net.stem(x), 1)), 1)),
    "two inputs": _attention,
    "normed first": lambda net, x: _classes(net, net.stem(nn.functional.layer_norm(x, [3, 6, 6]))),
    "read as it is given": lambda net, x: net.head(net.raw(x.flatten(1, 2)[:, :5])[0][:, -1]),
}
# It is after the last layer: no permission is needed.
AFTER: dict[str, Callable[[Island, Tensor], Any]] = {
    "scores": lambda net, x: torch.softmax(_classes(net, net.stem(x)), 1),
    "scores and a map": lambda net, x: {"scores": torch.softmax(_classes(net, net.stem(x)), 1), "map": net.stem(x)},
    "joined": _joined,
    "turned": lambda net, x: torch.softmax(net.head(net.stem(x).flatten(2).transpose(1, 2)).transpose(1, 2), 2),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network, and images for it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Island({**INSIDE, **AFTER}[name]).eval(), torch.randn(10, 3, 6, 6)


def frozen_island(name: str, target: Target) -> tuple[Reference, Tensor]:
    """The frozen reference of a network, and its images."""
    return frozen_reference(target, MINMAX, *network(name))
