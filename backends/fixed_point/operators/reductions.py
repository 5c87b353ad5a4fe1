"""Sums, means, largest and smallest elements along axes: which axes of memory are walked, and how sums become codes."""

from __future__ import annotations

import math

from torch import fx

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point.numbers import average_rescale
from isobit.backends.fixed_point.rescale import Rescale
from isobit.pipeline.graph.nodes import bound_args, known_sizes, op_name, source_of, tensor_shape

# Axis of memory (0 row, 1 column, 2 channel) of each axis of a tensor, the batch left out, by how many there are.
_BY_CHANNELS = {0: (), 1: (2,), 2: (2, 1), 3: (2, 0, 1)}
_IN_ORDER = {2: (1, 2)}


def reduced_axes(node: fx.Node) -> tuple[int, ...]:
    """The axes over which a reduction goes, the batch being 0."""
    rank, dims = len(tensor_shape(source_of(node))), bound_args(node).get("dim")
    listed = [dims] if isinstance(dims, int) else list(dims or range(rank))
    return tuple(sorted(dim % rank for dim in listed))


def reduction_refusal(node: fx.Node) -> str:
    """Why a reduction has no kernel, or an empty string."""
    rank = len(tensor_shape(source_of(node)))
    if 0 in reduced_axes(node):
        return f"{op_name(node)} over the batch"
    if rank > 4:
        return f"{op_name(node)} of a tensor of {rank} axes: four at most, the batch included"
    return f"{op_name(node)} to another type" if bound_args(node).get("dtype") is not None else ""


def reduced_elements(node: fx.Node) -> int:
    """How many elements a reduction makes one of."""
    shape = tensor_shape(source_of(node))
    return math.prod(known_sizes([shape[axis] for axis in reduced_axes(node)]))


def reduction_divisor(node: fx.Node) -> int:
    """What the sum is divided by: 1 unless it is a mean."""
    return 1 if op_name(node) == "sum" else reduced_elements(node)


def reduction_rescale(node: fx.Node, x: CodeGrid, grid: CodeGrid) -> Rescale:
    """The rescale of a sum or mean."""
    return average_rescale(node, x, reduced_elements(node), reduction_divisor(node), grid)


def memory_axes(rank: int, in_order: bool) -> tuple[int, ...]:
    """The axis of memory of each axis of one sample's value of so many axes."""
    return _IN_ORDER[rank] if in_order else _BY_CHANNELS[rank]


def kept_axes(node: fx.Node, in_order: bool) -> list[int]:
    """The axes of the input's memory that stay, in the order of the graph; `in_order`: how the input lies."""
    rank, reduced = len(tensor_shape(source_of(node))), reduced_axes(node)
    memory = memory_axes(rank - 1, in_order)
    return [memory[axis - 1] for axis in range(1, rank) if axis not in reduced]


def followed_axes(node: fx.Node, in_order: bool) -> tuple[int, int, int]:
    """`program.Reduce.follows` of a result that lies by channels."""
    kept, follows = kept_axes(node, in_order), [-1, -1, -1]
    reduced, rank = reduced_axes(node), len(tensor_shape(source_of(node)))
    stays = [axis not in reduced for axis in range(1, rank)] if bound_args(node).get("keepdim") else [True] * len(kept)
    found = iter(kept)
    for place, stay in zip(memory_axes(len(stays), False), stays, strict=True):
        if stay:
            follows[place] = next(found)
    return follows[0], follows[1], follows[2]
