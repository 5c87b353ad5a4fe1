"""What integer sums stand for in exact arithmetic: read off the graph, whatever a target's kernels divide by.

A target's kernel says how it adds and how it rescales. Were it asked for the truth as well, a divisor that is wrong in
both would cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.execution.layer_sums import Sums, layer_value
from isobit.backends.execution.ties import call
from isobit.backends.regions import Region
from isobit.pipeline.graph.nodes import bound_args, known_sizes, op_name, source_of, tensor_shape

if TYPE_CHECKING:
    from isobit.backends.execution.integer import Execution

Value = Callable[[Sums], Tensor]  # float64, of the shape of the sums


def value_of_sums(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> Value | None:
    """What sums of a region's first operator stand for, by the operator; None where its sums have no known unit.

    Args:
        grids: of what it adds.
    """
    made = _VALUES.get(op_name(region.anchor))
    return None if made is None else made(run, region, grids)


def _of_layer(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> Value:
    layer = run.layer(region.anchor)
    return lambda sums: layer_value(layer, grids[0], sums)


def _of_product(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> Value:
    unit = grids[0].scale.double() * grids[1].scale.double()
    return lambda sums: sums.exact() * unit


def _of_elements(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> Value:
    """The operator itself on a map of ones says what one code of its sum counts."""
    node, scale = region.anchor, grids[0].scale.double()
    ones = torch.ones(1, *known_sizes(tensor_shape(source_of(node))[1:]), dtype=torch.float64)
    with torch.no_grad():
        answered = call(node, lambda source: ones)
        if op_name(node) == "avg_pool2d":
            # An answer may differ from place to place, but not from channel to channel.
            answered, counted = answered[:, :1], _codes_in_windows(node, ones[:, :1])
        else:
            answered, counted = answered.flatten()[0], torch.tensor(ones.numel() / answered.numel())
    divisor = (counted / answered).round()  # divided at last: a mean of 7 codes is exact where its sum is
    return lambda sums: sums.exact() * scale / divisor


def _codes_in_windows(node: fx.Node, ones: Tensor) -> Tensor:
    """How many codes each window holds, padding left out."""
    given = bound_args(node)
    return F.avg_pool2d(ones, given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"],
                        given["ceil_mode"], count_include_pad=True, divisor_override=1)


_VALUES: dict[str, Callable[[Execution, Region, Sequence[CodeGrid]], Value]] = {
    "conv2d": _of_layer, "linear": _of_layer, "matmul": _of_product,
    "mean": _of_elements, "sum": _of_elements, "mean_over_dims": _of_elements, "avg_pool2d": _of_elements,
}
