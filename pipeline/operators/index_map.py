"""Which element goes where: rows of `MOVES`, run on the numbers of elements.

The map is right by construction, because the graph's own ATen call makes it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, fx

from isobit.pipeline.graph.nodes import bound_args, op_name, overload_of, tensor_shape
from isobit.pipeline.operators.moves import MOVES

OUTSIDE = -1  # in place of an element's number: none comes there
_FLOAT32_EXACT = 1 << 24


def run_move(node: fx.Node, values: Tensor, fill: float) -> Tensor:
    """The call of `node`, a row of `MOVES`, on a tensor in place of its own.

    Args:
        values: floats; not every operator takes integers.
        fill: written where no element comes from.
    """
    row, arguments = MOVES[op_name(node)], bound_args(node)
    if row.fill:
        arguments[row.fill] = fill
    positional, named = [], {}
    for argument in overload_of(node)._schema.arguments:
        value = arguments[argument.name]
        value = values if isinstance(value, fx.Node) else value
        if argument.kwarg_only:
            named[argument.name] = value
        else:
            positional.append(value)
    return overload_of(node)(*positional, **named)


def move_numbers(node: fx.Node, numbers: np.ndarray) -> np.ndarray:
    """A move on numbers of elements, int64 of the shape that it reads; `OUTSIDE` where no element comes from.

    In float32 as far as that holds them: resizing in float64 rounds to other pixels in places.
    """
    dtype = torch.float32 if numbers.size < _FLOAT32_EXACT else torch.float64
    return run_move(node, torch.from_numpy(numbers).to(dtype), OUTSIDE).long().numpy()


def index_map(node: fx.Node) -> np.ndarray:
    """int64 of the result's shape with a batch of one: the element of one sample that each holds, or `OUTSIDE`."""
    shape = [1 if size is None else size for size in tensor_shape(node.all_input_nodes[0])]
    return move_numbers(node, np.arange(math.prod(shape)).reshape(shape))


def axis_maps(index: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray] | None:
    """For each axis which places of it the result holds, where axes move apart from each other; None where not.

    Args:
        index: of a tensor of `shape`; its own shape has as many axes.
    """
    if index.ndim != len(shape) or not index.size or (index == OUTSIDE).any():
        return None
    places = np.unravel_index(index, shape)
    found = [_along(places[axis], axis) for axis in range(index.ndim)]
    again = np.ravel_multi_index(np.meshgrid(*found, indexing="ij"), shape)
    return found if np.array_equal(again, index) else None


def _along(places: np.ndarray, axis: int) -> np.ndarray:
    """The first line along `axis`."""
    return places[tuple(slice(None) if other == axis else 0 for other in range(places.ndim))]
