"""Note where a batch's samples lie in values that are not [N, ...] (`pipeline.capture.sample_layout`).

Of values that are quantized, and of such laid out anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from isobit.pipeline.capture.sample_layout import META, find_samples
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import is_constant, op_name, quantizer_of, tensor_dtype, tensor_shape, where
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.operators.moves import is_move
from isobit.pipeline.shapes import known_sizes


class _Tracer(fx.Interpreter):
    """Runs a graph and keeps which elements of quantized and of moved values are not numbers.

    Args:
        sample: whose values are made no number where they are read from integers, which always are numbers.
    """

    def __init__(self, graph: fx.GraphModule, sample: int | None) -> None:
        super().__init__(graph)
        self.quantized, self.sample = graph, sample
        self.marked: dict[fx.Node, Tensor] = {}
        self.integers: set[fx.Node] = set()  # that depend on an input

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if not isinstance(value, Tensor):
            return value
        if n.op == "placeholder" or not self.integers.isdisjoint(n.all_input_nodes):
            if not value.is_floating_point():
                self.integers.add(n)
            elif n.op != "placeholder" and self.sample is not None and value.shape[:1] == (2,):
                value = value.clone()
                value[self.sample] = torch.nan
        if (quantizer_of(self.quantized, n) is not None and not is_constant(n)) or is_move(op_name(n)):
            self.marked[n] = value.isnan()
        return value


def mark_samples(graph: fx.GraphModule) -> bool:
    """Write `meta["samples"]` of every such node, quantizers all OFF; True where there is one.

    Of two samples first one and then the other is not a number, and neither is what depends on it.

    Raises:
        CaptureError: the samples of a quantized value lie on more than one axis.
    """
    neither, first, second = (_not_numbers(graph, sample) for sample in (None, 0, 1))
    changed = False
    for node in first:
        samples = find_samples(first[node] & ~neither[node], second[node] & ~neither[node])
        if samples is None and is_move(op_name(node)):
            continue
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
    # Not zeros: what is divided by its own mean or norm would be no number either.
    generator = torch.Generator().manual_seed(0)
    inputs = [_numbers(node, sample, generator) for node in input_nodes(graph)]
    tracer = _Tracer(graph, sample)
    with torch.no_grad():
        tracer.run(*inputs)
    return tracer.marked


def _numbers(node: fx.Node, sample: int | None, generator: torch.Generator) -> Tensor:
    """Two samples of an input, of which one is no number; integers are zeros."""
    shape, dtype = (2, *known_sizes(tensor_shape(node)[1:])), tensor_dtype(node)
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    x = torch.rand(shape, generator=generator)
    if sample is not None:
        x[sample] = torch.nan
    return x
