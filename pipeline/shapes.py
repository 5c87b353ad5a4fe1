"""Shapes of values; in a graph None stands for a size that varies with the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def known_sizes(sizes: Sequence[int | None]) -> tuple[int, ...]:
    """`sizes`, none of which varies with the batch; raises ValueError where one does."""
    known = tuple(size for size in sizes if size is not None)
    if len(known) != len(sizes):
        raise ValueError(f"sizes {tuple(sizes)}: only the batch may vary")
    return known


def positions(value: Tensor) -> int:
    """Spatial positions of [N, C, ...]: what a loss is averaged over besides images."""
    return value[0, 0].numel() if value.dim() > 1 else 1
