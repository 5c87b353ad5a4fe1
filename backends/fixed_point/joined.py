"""Logits that layout operators put together from several tensors: which element of which tensor is which logit.

As in `layout`, the graph's own operators run on the numbers of the elements, so the map is right by construction; then
the short form of `LogitPlaces` is tried for each tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from isobit.backends.fixed_point.layout import OUTSIDE
from isobit.backends.fixed_point.program import LogitPlaces


@dataclass(frozen=True)
class Joined:
    """A value whose elements come from several tensors, each on a grid of its own.

    Args:
        sources: number of each tensor, and of how many elements; a tensor that is read twice stands here twice.
        numbers: int64 of the value's shape for one sample, the batch included: elements of the first source, those of
            the second after them, and so on; `layout.OUTSIDE` for 0.
    """

    sources: tuple[tuple[int, int], ...]
    numbers: np.ndarray

    @property
    def size(self) -> int:
        return sum(count for _, count in self.sources)


def join(values: Sequence[Joined], operator: Callable[[list[torch.Tensor]], torch.Tensor]) -> Joined:
    """A layout operator on values; `operator` takes their numbers."""
    moved, first = [], 0
    for value in values:
        numbers = np.where(value.numbers == OUTSIDE, OUTSIDE, value.numbers + first)
        moved.append(torch.from_numpy(numbers))
        first += value.size
    return Joined(tuple(source for value in values for source in value.sources), operator(moved).numpy())


def find_parts(joined: Joined, shapes: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, LogitPlaces], ...]:
    """The tensors of which any element is a logit, by number, and where their elements go.

    Args:
        shapes: (height, width, channels) of each source.
    """
    numbers, first, found = joined.numbers.reshape(-1), 0, []
    for (buffer, count), shape in zip(joined.sources, shapes, strict=True):
        logits = np.flatnonzero((numbers >= first) & (numbers < first + count))
        if len(logits):
            found.append((buffer, _part(numbers[logits] - first, logits, shape)))
        first += count
    return tuple(found)


def _part(elements: np.ndarray, logits: np.ndarray, shape: tuple[int, int, int]) -> LogitPlaces:
    table = LogitPlaces(0, (0, 0, 0), elements.astype(np.int32), logits.astype(np.int32))
    if len(np.unique(elements)) != len(elements) or len(elements) != np.prod(shape):
        return table
    places = np.empty(len(elements), np.int64)
    places[elements] = logits
    places = places.reshape(shape)
    first = int(places[0, 0, 0])
    down, right, deep = (
        int(places.take(1, axis).flat[0]) - first if size > 1 else 0 for axis, size in enumerate(shape)
    )
    steps = (down, right, deep)
    expected = first + sum(numbers * step for numbers, step in zip(np.indices(shape), steps, strict=True))
    none = np.zeros(0, np.int32)
    return LogitPlaces(first, steps, none, none) if np.array_equal(places, expected) else table
