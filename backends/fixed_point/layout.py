"""Runs of layout operators as one map from output codes to input codes, in its simplest form.

The map is found by running the graph's own operators on the numbers of the elements, so it is right by construction;
then the short form of `Move` is tried, and taken where it says exactly the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isobit.pipeline.operators.index_map import OUTSIDE


@dataclass(frozen=True)
class Form:
    """The fields of `program.Move`; see there."""

    stride: tuple[int, int]
    origin: tuple[int, int]
    channels: np.ndarray
    index: np.ndarray | None


def channels_first(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) under which a tensor of one sample lies in memory, whatever its rank in the graph."""
    if len(shape) == 3:
        return shape
    if len(shape) < 2:
        return shape[0] if shape else 1, 1, 1
    return shape[0], math.prod(shape[1:-1]), shape[-1]


def identity_map(shape: tuple[int, int, int], graph_shape: tuple[int, ...]) -> np.ndarray:
    """Number in (height, width, channels) order of every element of a tensor in its order in the graph."""
    height, width, channels = shape
    numbers = np.arange(height * width * channels).reshape(height, width, channels)
    return numbers.transpose(2, 0, 1).reshape(graph_shape)


def channels_last(numbers: np.ndarray) -> np.ndarray:
    """Numbers of one sample in the order of the graph, of any rank -> [H, W, C]."""
    return numbers.reshape(channels_first(numbers.shape)).transpose(1, 2, 0)


def map_shape(shape: tuple[int, ...], in_order: bool) -> tuple[int, int, int]:
    """(height, width, channels) of a tensor of one sample; `in_order`: the channels are the last of its axes."""
    if in_order:
        return 1, math.prod(shape[:-1]), shape[-1]
    channels, height, width = channels_first(shape)
    return height, width, channels


def as_map(numbers: np.ndarray, in_order: bool) -> np.ndarray:
    """Numbers of one sample in the order of the graph -> [H, W, C]; see `map_shape`."""
    return numbers.reshape(map_shape(numbers.shape, True)) if in_order else channels_last(numbers)


def is_identity(numbers: np.ndarray) -> bool:
    """Every element [H, W, C] stays where it is."""
    return np.array_equal(numbers.reshape(-1), np.arange(numbers.size))


def find_form(numbers: np.ndarray, source: tuple[int, int, int]) -> Form:
    """The short form of a map [H, W, C] into a tensor of shape `source`; with `index` where there is none.

    `numbers` holds the number of an element of the source, or `OUTSIDE`.
    """
    inside = numbers != OUTSIDE
    rows, columns, channels = np.unravel_index(np.where(inside, numbers, 0), source)
    row, column, channel = (_single(values, inside, axis) for axis, values in enumerate((rows, columns, channels)))
    if row is not None and column is not None and channel is not None:
        down, across = _line(row, source[0]), _line(column, source[1])
        if down is not None and across is not None:
            form = Form((down[0], across[0]), (down[1], across[1]), channel.astype(np.int32), None)
            if np.array_equal(expand(form, numbers.shape, source), numbers):
                return form
    return Form((1, 1), (0, 0), np.zeros(0, np.int32), numbers.reshape(-1).astype(np.int32))


def expand(form: Form, shape: tuple[int, int, int], source: tuple[int, int, int]) -> np.ndarray:
    """The map that the short form stands for."""
    rows = np.arange(shape[0]) * form.stride[0] + form.origin[0]
    columns = np.arange(shape[1]) * form.stride[1] + form.origin[1]
    y, x, c = np.meshgrid(rows, columns, form.channels, indexing="ij")
    inside = (y >= 0) & (y < source[0]) & (x >= 0) & (x < source[1]) & (c >= 0)
    return np.where(inside, (y * source[1] + x) * source[2] + c, OUTSIDE)


def _single(values: np.ndarray, inside: np.ndarray, axis: int) -> np.ndarray | None:
    """The one coordinate along `axis` that all elements of each line share, -1 for lines without an element."""
    others = tuple(other for other in range(3) if other != axis)
    most = np.where(inside, values, -1).max(others)
    least = np.where(inside, values, np.iinfo(values.dtype).max).min(others)
    return most if np.array_equal(most[most >= 0], least[most >= 0]) else None


def _line(coordinates: np.ndarray, size: int) -> tuple[int, int] | None:
    """(step, first) with `coordinates[i] = i * step + first` wherever there is one; None where no line fits."""
    known = np.flatnonzero(coordinates >= 0)
    if len(known) == 0:
        return 1, size
    step = 1 if len(known) == 1 else int(coordinates[known[1]] - coordinates[known[0]]) // int(known[1] - known[0])
    return step, int(coordinates[known[0]]) - int(known[0]) * step
