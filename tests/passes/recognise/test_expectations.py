"""A layer that weighs constants by a softmax becomes a sum, and only such a layer, at the end of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.layers import weighted_layers


class _Expected(nn.Module):
    def __init__(self, layer: nn.Module, softmax: bool = True, follows: bool = False) -> None:
        super().__init__()
        self.body, self.layer, self.softmax, self.follows = nn.Conv2d(3, 8, 1), layer, softmax, follows
        self.last = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        x = self.body(x)
        x = torch.softmax(x, 1) if self.softmax else x
        if isinstance(self.layer, nn.Linear):
            return self.layer(x.flatten(2).transpose(1, 2))
        x = self.layer(x)
        return self.last(x) if self.follows else x


@pytest.mark.parametrize(("model", "layers"), [
    (_Expected(nn.Conv2d(8, 1, 1)), 1), (_Expected(nn.Conv2d(8, 1, 1, bias=False)), 1),
    (_Expected(nn.Linear(8, 1)), 1), (_Expected(nn.Conv2d(8, 2, 1)), 2), (_Expected(nn.Conv2d(8, 1, 3)), 2),
    (_Expected(nn.Conv2d(8, 1, 1), softmax=False), 2), (_Expected(nn.Conv2d(8, 1, 1), follows=True), 3),
])
def test_an_expectation_over_bins_is_no_layer(model, layers):
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        graph, expected = prepare(capture(model.eval(), x[:1]).graph), model(x)
        torch.testing.assert_close(graph(x), expected, rtol=1e-5, atol=1e-6)
    assert len(weighted_layers(graph)) == layers
