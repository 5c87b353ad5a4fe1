"""Where the values of a graph lie while it is lowered: elements of tensors by number, sums without a grid, refusals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import fx

from isobit.backends.execution.codes import CodeGrid
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.nodes import known_sizes, tensor_shape


class Refusal(Exception):
    """Why a node cannot be lowered."""

    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class Value:
    """Where the value of a node lies: elements of a tensor, by number, in the order of the graph.

    Args:
        buffer: number of the tensor.
        grid: of its codes; of a tensor of integers one step of 1.
        numbers: int64 of the node's shape for one sample, the batch included; into the tensor's elements;
            `layout.OUTSIDE` for the code of zero.
    """

    buffer: int
    grid: CodeGrid
    numbers: np.ndarray


@dataclass(frozen=True)
class Sums:
    """A value whose elements are the sums of a layer after which nothing computes: they have no grid.

    Args:
        layer: whose sums they are.
        numbers: as of `Value`, into the layer's channels.
    """

    layer: fx.Node
    numbers: np.ndarray


def graph_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of one sample's value, without the batch."""
    return known_sizes(tensor_shape(node)[1:])


def sample_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of one sample's value, without the batch, wherever in the value the batch lies.

    For one sample it lies in memory as the value does, since a batch of one may stand anywhere.

    Raises:
        Refusal: samples do not lie on one axis.
    """
    shape, samples = tensor_shape(node), samples_of(node)
    if samples.is_first:
        return per_sample(node)[1:]
    before, after = shape[:samples.axis], shape[samples.axis + 1:]
    if None in before + after or shape[samples.axis] is not None:
        raise Refusal(node, f"the samples do not lie on one axis of {node.name}")
    return (*known_sizes(before), samples.outer, samples.inner, *known_sizes(after))


def per_sample(node: fx.Node) -> tuple[int, ...]:
    """The shape of one sample's value, a batch of one first.

    Raises:
        Refusal: samples do not lie one after the other on the first axis.
    """
    shape = tensor_shape(node)
    if not samples_of(node).is_first or not shape or shape[0] is not None or None in shape[1:]:
        raise Refusal(node, f"the samples do not lie on the first axis of {node.name}, or on others as well")
    return (1, *known_sizes(shape[1:]))
