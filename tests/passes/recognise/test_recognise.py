"""The whole pass: what networks write in parts comes out of PREPARE as if they had called the operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.passes import prepare
from isobit.passes.canonicalize import canonicalize
from isobit.passes.recognise import recognise
from tests.examples import nets


@pytest.mark.parametrize("name", nets.NETS)
def test_every_net_stays_as_it_is(name):
    graph = nets.captured_net(name)[0].graph
    canonicalize(graph)
    before = nets.snapshot(graph)
    recognise(graph)
    assert nets.snapshot(graph) == before


class Whole(nn.Module):
    """A block with operators as calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x):
        x = F.hardswish(self.conv(x))
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = F.gelu(x)
        x = x * F.hardsigmoid(x.mean((2, 3), keepdim=True))
        return self.fc(x.mean((2, 3))).softmax(1)


class InParts(Whole):
    """The same in parts, as exporters write it."""

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight, padding=1) + self.conv.bias[:, None, None]
        x = x * torch.clamp(x + 3, 0, 6) / 6
        x = x.permute(0, 2, 3, 1)
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.norm.weight + self.norm.bias
        x = (x * 0.5 * (1 + torch.erf(x / 2**0.5))).permute(0, 3, 1, 2)
        x = x * (torch.minimum(torch.relu(self.mean(x) + 3), torch.tensor(6.0)) / 6)
        x = self.mean(x).flatten(1) @ self.fc.weight.t() + self.fc.bias
        powers = torch.exp(x - x.amax(1, keepdim=True))
        return powers / powers.sum(1, keepdim=True)

    def mean(self, x):
        return x.mean((2, 3), keepdim=True)


def test_parts_come_out_as_the_whole():
    found = {}
    for kind in (Whole, InParts):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            captured, x = nets.captured_of(kind())
        found[kind] = prepare(captured.graph), x
    (whole, x), (parts, _) = found.values()
    torch.testing.assert_close(nets.run(parts, x), nets.run(whole, x), rtol=1e-5, atol=1e-5)
    kept = [[name for name in nets.operators(graph) if name != "permute"] for graph in (whole, parts)]
    assert kept[0] == kept[1]
