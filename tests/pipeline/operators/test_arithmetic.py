"""The rows say what every target's rules and the sets of names that passes read are made of."""

from __future__ import annotations

import torch
from torch import nn

from isobit.backends.rules import COMPUTED, FUSED, IN_FLOAT
from isobit.passes import prepare
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.dialect import ACTIVATIONS, COMPUTE, POOLS, WEIGHTED, over_features
from isobit.pipeline.graph.grid_map import channel_axis
from isobit.pipeline.operators.arithmetic import ARITHMETIC, of_kind
from tests.examples import nets


def test_every_row_has_a_rule_on_integer_targets_and_every_rule_a_row():
    assert COMPUTED.keys() == ARITHMETIC.keys() <= COMPUTE


def test_sets_of_names_are_those_of_the_rows():
    assert ({"conv2d", "linear"}, {"mean", "avg_pool2d"}) == (WEIGHTED, POOLS)
    assert of_kind("sum", "product", "joined") == {"add", "mul", "cat"}
    assert set(FUSED) == ACTIVATIONS == {"relu", "hardtanh"} and set(IN_FLOAT) == {*FUSED, "leaky_relu"}


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.of_pixels, self.of_features = nn.Conv2d(3, 4, 1), nn.Linear(4, 5), nn.Linear(5 * 144, 2)

    def forward(self, x):
        return self.of_features(self.of_pixels(self.conv(x).permute(0, 2, 3, 1)).flatten(1)).reshape(-1, 1, 2)


def test_channels_lie_where_rows_say():
    graph = prepare(nets.captured_of(Heads())[0].graph)
    axes = [(call.op, channel_axis(call)) for call in Calls(graph) if call.op]
    named = [found for found in axes if found[0] in ("conv2d", "linear", "permute", "view")]
    assert named == [("conv2d", 1), ("permute", 3), ("linear", 3), ("view", 1), ("linear", 1), ("view", 2)]
    assert [over_features(call.op) for call in Calls(graph) if call.op in WEIGHTED] == [False, True, True]
    assert isinstance(graph, torch.fx.GraphModule)
