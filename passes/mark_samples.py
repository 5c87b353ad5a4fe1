"""Note where the samples of a batch lie in quantized values that are not [N, ...] (`pipeline.graph.sample_layout`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import is_constant, network_input, quantizer_of, tensor_shape, where
from isobit.pipeline.graph.sample_layout import META, find_samples
from isobit.pipeline.shapes import known_sizes


class _Tracer(fx.Interpreter):
    """Runs a graph and keeps which elements of quantized values are not numbers."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.quantized = graph
        self.marked: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if quantizer_of(self.quantized, n) is not None and not is_constant(n):
            self.marked[n] = value.isnan()
        return value


def mark_samples(graph: fx.GraphModule) -> bool:
    """Write `meta["samples"]` of every such quantizer node, all OFF; True where there is one.

    Of two samples first one and then the other is not a number, and neither is what depends on it.

    Raises:
        CaptureError: the samples of a value lie on more than one axis.
    """
    neither, first, second = (_not_numbers(graph, sample) for sample in (None, 0, 1))
    changed = False
    for node in first:
        samples = find_samples(first[node] & ~neither[node], second[node] & ~neither[node])
        if samples is None:
            raise CaptureError(
                "the samples of a batch do not lie along one axis of this value", where=where(node),
                allowed="a batch that is one axis, or a factor of one",
            )
        if not samples.is_first:
            node.meta[META] = samples
            changed = True
    return changed


def _not_numbers(graph: fx.GraphModule, sample: int | None) -> dict[fx.Node, Tensor]:
    """By quantizer node, which elements are no number where one of two samples is none; None: both are numbers."""
    source = network_input(graph)
    # Not zeros: what is divided by its own mean or norm would be no number either.
    x = torch.rand(2, *known_sizes(tensor_shape(source)[1:]), generator=torch.Generator().manual_seed(0))
    if sample is not None:
        x[sample] = torch.nan
    tracer = _Tracer(graph)
    with torch.no_grad():
        tracer.run(x)
    return tracer.marked
