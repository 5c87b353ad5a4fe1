"""Averages and what they average: found through whatever only moves codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx

from isobit.calib.ranges.averages import averaged_inputs, covered
from isobit.calib.ranges.ranges import search_ranges
from isobit.pipeline.graph.nodes import quantizer_of
from isobit.pipeline.quant.grid import Grid, QuantSpec, params_from_range
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import OpRule, Target
from tests.examples import tiny
from tests.examples.units import TARGET, calibration, recipe


class Cut(tiny.Residual):
    """Cuts a row off before the average, as networks for odd sizes do."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(x[:, :, 1:].mean(dim=(2, 3)))


def names(graph: fx.GraphModule, target: Target) -> list[tuple[str, str]]:
    """(average, what is averaged) by the nodes before the quantizers."""
    owner: dict[Quantizer, str] = {}
    for node in graph.graph.nodes:
        if (quantizer := quantizer_of(graph, node)) is not None:
            owner.setdefault(quantizer, str(node.args[0]))
    return [(owner[average], owner[source]) for average, source in averaged_inputs(graph, target).items()]


def test_operators_that_only_move_codes_do_not_hide_what_is_averaged() -> None:
    torch.manual_seed(0)
    moving = replace(TARGET, ops={**TARGET.ops, "slice": OpRule("quantized", "as_input")})
    for target, averaged in ((moving, "relu"), (TARGET, "slice_2")):  # the second gives the slice a grid of its own
        quantized, _ = tiny.quantized_net(target, recipe("minmax_w8a8"), Cut().eval(), torch.randn(8, 3, 8, 8))
        assert names(quantized.graph, quantized.target) == [("mean_dim", averaged)]


def test_a_network_without_an_average_has_none() -> None:
    class Flat(tiny.Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(self.stem(x)))[:, :, 0, 0])

    quantized, _ = tiny.quantized_net(TARGET, recipe("minmax_w8a8"), Flat().eval(), torch.randn(8, 3, 8, 8))
    assert names(quantized.graph, quantized.target) == []


def test_an_average_stays_inside_the_range_that_it_gets() -> None:
    of = calibration(recipe("minmax_w8a8"), ranges=False)
    search_ranges(of)
    for average, source in averaged_inputs(of.graph, of.target).items():
        (low, high), (least, most) = covered(average), covered(source)
        assert least <= low and high <= most


def test_what_a_grid_covers() -> None:
    quantizer = Quantizer(QuantSpec(Grid(4, signed=False), symmetric=False))
    quantizer.set_params(params_from_range(torch.tensor(-1.0), torch.tensor(2.0), quantizer.spec))
    assert [float(end) for end in covered(quantizer)] == pytest.approx([-1.0, 2.0])
