"""Operators whose tensors are laid out in a way of their own: joined along any axis, reduced, gathered from a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from isobit.backends.fixed_point import layout
from isobit.backends.fixed_point.numbers import embedding_table, requantize_table
from isobit.backends.fixed_point.operators.reductions import (
    followed_axes,
    kept_axes,
    memory_axes,
    reduced_axes,
    reduction_rescale,
)
from isobit.backends.fixed_point.operators.steps import ArgMax, Gather, Reduce
from isobit.backends.fixed_point.program import (
    Buffer,
    Concat,
)
from isobit.backends.fixed_point.steps import joined_axis
from isobit.backends.fixed_point.tensors import Tensors, same_bytes
from isobit.backends.fixed_point.values import Refusal, Value, per_sample
from isobit.backends.regions import Region
from isobit.pipeline.graph.nodes import bound_args, op_name, tensor_shape


def concatenate(tensors: Tensors, region: Region) -> None:
    """A concatenation along another axis than the channels: along the channels of tensors that are reshaped."""
    node = region.anchor
    sources = [source for source in region.inputs if tensors.value(source, node).numbers.size]
    inputs = [tensors.codes(source, node) for source in sources]
    grids = [tensors.value(source, node).grid for source in sources]
    # The order of memory: channels last, the batch of one left out.
    order = [*range(2, len(per_sample(node))), 1]
    before = order[:order.index(joined_axis(node))]
    lines = math.prod(per_sample(node)[axis] for axis in before)
    shapes = [(lines, 1, tensors.buffers[number].size // lines) for number in inputs]
    parts = [tensors.reshaped(node, number, shape) for number, shape in zip(inputs, shapes, strict=True)]
    grid = grids[0] if region.is_layout else tensors.grid(region)
    total = sum(tensors.buffers[number].shape[2] for number in parts)
    joined = tensors.add(Buffer(
        node.name, (lines, 1, total), grid.zero_point, float(grid.scale), False, (total, lines, 1)))
    if not tensors.trial:
        tables = (None if region.is_layout else requantize_table(node, before, grid) for before in grids)
        tensors.steps.append(Concat(node.name, region.module, tuple(parts), joined, tuple(tables), high=grid.high))
    if region.is_layout:
        channels, height, width = layout.channels_first(per_sample(node)[1:])
        numbers = layout.identity_map((height, width, channels), per_sample(node)[1:])
        tensors.values[node] = Value(joined, grid, numbers[None])
    else:
        output = tensors.store(region, grid)
        tensors.steps.append(same_bytes(region.value.name, region.module, joined, output, lines * total))


def reduce(tensors: Tensors, region: Region) -> None:
    """A sum, a mean, the largest or the smallest element along some axes."""
    node, source = region.anchor, region.inputs[0]
    in_order = tensors.lies_in_order(source) and len(tensor_shape(source)) == 3
    inputs, before = (tensors.codes(source, node, in_order=in_order),), tensors.value(source, node).grid
    grid = before if region.is_layout else tensors.grid(region)
    output = tensors.store(region, grid)
    if not tensors.trial:
        rescale = None if region.is_layout else reduction_rescale(node, before, grid)
        tensors.steps.append(Reduce(
            region.value.name, region.module, inputs, output, followed_axes(node, in_order), rescale,
            op_name(node) == "amax", grid.low, grid.high))


def find_place(tensors: Tensors, region: Region) -> None:
    """Where the largest or the smallest element along one axis stands."""
    node, source = region.anchor, region.inputs[0]
    if len(reduced_axes(node)) != 1 or bound_args(node).get("dim") is None:
        raise Refusal(node, f"{op_name(node)} over all elements: over one axis")
    in_order = tensors.lies_in_order(source) and len(tensor_shape(source)) == 3
    inputs = (tensors.codes(source, node, in_order=in_order),)
    output = tensors.store_integers(node)
    kept = kept_axes(node, in_order)
    follows = (*[-1] * (3 - len(kept)), *kept)
    memory = memory_axes(len(tensor_shape(source)) - 1, in_order)
    tensors.steps.append(ArgMax(
        node.name, region.module, inputs, output, memory[reduced_axes(node)[0] - 1],
        (follows[0], follows[1], follows[2]), op_name(node) == "argmax"))


def gather(tensors: Tensors, region: Region) -> None:
    """Rows of a table of codes."""
    node, source = region.anchor, region.inputs[0]
    inputs, grid = (tensors.integers(source, node),), tensors.grid(region)
    output = tensors.store(region, grid, in_order=True)
    if not tensors.trial:
        tensors.steps.append(Gather(
            region.value.name, region.module, inputs, output, embedding_table(tensors.graph, node, grid)))


# An operator by its canonical name; the others read and write tensors that lie by channels (`steps`).
ARRANGED: Mapping[str, Callable[[Tensors, Region], None]] = {
    **dict.fromkeys(("sum", "mean_over_dims", "amax", "amin"), reduce),
    **dict.fromkeys(("argmax", "argmin"), find_place),
    "embedding": gather,
}
