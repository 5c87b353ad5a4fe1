"""Where the samples of a batch lie in a value: one after the other on its first axis, mostly.

A network may fold other axes into the batch (`view(-1, 4, 8, 8)`) or move the batch after them (`permute(2, 0, 1)`).
What reports values by sample then asks here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

META = "samples"  # of nodes whose values are not [N, ...]


@dataclass(frozen=True)
class Samples:
    """The batch within one axis of `outer * N * inner` elements.

    Args:
        axis: of the value.
        outer, inner: what the axis holds before the batch and after it.
    """

    axis: int
    outer: int
    inner: int

    @property
    def is_first(self) -> bool:
        """A value [N, ...]."""
        return (self.axis, self.outer, self.inner) == (0, 1, 1)

    def split(self, shape: tuple[int, ...]) -> list[int]:
        """Sizes that make the batch an axis of its own, -1 in its place; `shape` without the sizes of the batch."""
        return [*shape[:self.axis], self.outer, -1, self.inner, *shape[self.axis + 1:]]

    def gather(self, values: Tensor) -> Tensor:
        """[N, ...] from a value as it stands in the graph."""
        return values if self.is_first else values.reshape(self.split(tuple(values.shape))).movedim(self.axis + 1, 0)

    def scatter(self, values: Tensor) -> Tensor:
        """The inverse of `gather`."""
        return values if self.is_first else values.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)


FIRST = Samples(0, 1, 1)


def samples_of(node: fx.Node) -> Samples:
    """Where the samples lie in the value of `node`; on the first axis unless `find_samples` was told otherwise."""
    return node.meta.get(META, FIRST)


def find_samples(first: Tensor, second: Tensor) -> Samples | None:
    """Where the samples lie in a value of a batch of two; None where that is no single axis.

    Args:
        first, second: bool, which elements depend on the first sample and which on the second; padding on neither.
    """
    for axis, size in enumerate(first.shape):
        shape = [-1 if other == axis else 1 for other in range(first.dim())]
        for inner in range(1, size // 2 + 1):
            if size % (2 * inner):
                continue
            of_second = (torch.arange(size) // inner % 2 == 1).reshape(shape)
            if not (first & of_second).any() and not (second & ~of_second).any():
                return Samples(axis, size // (2 * inner), inner)
    return None
