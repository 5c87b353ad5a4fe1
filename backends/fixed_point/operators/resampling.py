"""Maps of another size: which rows and columns make each of the new ones, and with what integer weights.

    adaptive_avg_pool2d   window i of n over `size` rows: floor(i * size / n) up to ceil((i + 1) * size / n), weight 1
    upsample_bilinear2d   two rows each, at torch's places; their weights in steps of 1 / 128, rounded to nearest
"""

from __future__ import annotations

import numpy as np
from torch import fx

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point.numbers import average_rescale
from isobit.backends.fixed_point.operators.steps import Taps
from isobit.backends.fixed_point.rescale import Rescale
from isobit.pipeline.graph.nodes import bound_args, known_sizes, op_name, source_of, tensor_shape

RESIZES = ("adaptive_avg_pool2d", "upsample_bilinear2d")
_UNIT = 128  # of a weight between two rows


def taps_of(node: fx.Node) -> tuple[Taps, Taps]:
    """Rows and columns of a resize."""
    sizes = zip(known_sizes(tensor_shape(source_of(node))[2:]), known_sizes(tensor_shape(node)[2:]), strict=True)
    if op_name(node) == "adaptive_avg_pool2d":
        rows, columns = (_windows(size, count) for size, count in sizes)
        return rows, columns
    align = bool(bound_args(node)["align_corners"])
    rows, columns = (_between(size, count, _step(node, axis, size, count, align), align)
                     for axis, (size, count) in enumerate(sizes))
    return rows, columns


def divisors_of(rows: Taps, columns: Taps) -> np.ndarray:
    """int32 [H, W]: the weights of each element of the output, added up."""
    return np.outer(rows.weights.sum(1), columns.weights.sum(1)).astype(np.int32)


def resample_rescales(node: fx.Node, divisors: np.ndarray, x: CodeGrid, grid: CodeGrid) -> dict[int, Rescale]:
    """The rescale of each divisor that occurs; sums hold no more than the largest divisor's worth of codes."""
    return {
        divisor: average_rescale(node, x, divisor, divisor, grid) for divisor in np.unique(divisors).tolist()
    }


def _windows(size: int, count: int) -> Taps:
    numbers = np.arange(count)
    first, end = numbers * size // count, -(-(numbers + 1) * size // count)
    return _taps(size, first, [np.ones(length, np.int64) for length in end - first])


def _step(node: fx.Node, axis: int, size: int, count: int, align: bool) -> float:
    """Rows of the input from one row of the output to the next, as torch has them."""
    arguments = bound_args(node)
    if align:
        return (size - 1) / (count - 1) if count > 1 else 0.0
    stated = arguments.get(("scales_h", "scales_w")[axis])
    factors = arguments.get("scale_factors")
    stated = factors[axis] if factors else stated
    return 1.0 / stated if stated else size / count


def _between(size: int, count: int, step: float, align: bool) -> Taps:
    numbers = np.arange(count)
    places = numbers * step if align else np.maximum((numbers + 0.5) * step - 0.5, 0.0)
    low = np.minimum(places.astype(np.int64), size - 1)
    upper = np.where(low < size - 1, np.rint((places - low) * _UNIT), 0).astype(np.int64)
    return _taps(size, low, [np.array([_UNIT - weight, weight]) for weight in upper])


def _taps(size: int, first: np.ndarray, weights: list[np.ndarray]) -> Taps:
    """All with as many taps as the longest, moved back where they would leave the map."""
    most = min(max(np.flatnonzero(each).max() + 1 for each in weights), size)
    table = np.zeros((len(first), most), np.int32)
    moved = np.minimum(first, size - most)
    for number, (start, old, each) in enumerate(zip(moved, first, weights, strict=True)):
        used = each[:np.flatnonzero(each).max() + 1]
        table[number, old - start:old - start + len(used)] = used
    return Taps(moved.astype(np.int32), table)
