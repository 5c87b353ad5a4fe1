"""Histograms of tensors row by row, in bounded memory: how many values fell into each bin, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isobit.pipeline.quant.grid import SCALE_FLOOR

CHUNK = 2**22  # elements of one temporary


@dataclass(frozen=True)
class Histogram:
    """What fell into bins of equal width.

    Args:
        values: float32 [rows, bins], the mean of each bin, its centre where it is empty.
        counts: float64, the same shape.
    """

    values: Tensor
    counts: Tensor


class Bins:
    """Bins over [low, high] with 0 included, filled a part of a tensor at a time.

    Args:
        low, high: [rows] or rank 0, the ends of each row.
        bins: how many there are in a row.
    """

    def __init__(self, low: Tensor, high: Tensor, bins: int) -> None:
        self.start, self.width = bin_axis(low, high, bins)
        self.counts = torch.zeros(len(self.start), bins, dtype=torch.float64, device=low.device)
        self.sums = torch.zeros_like(self.counts)

    def fill(self, rows: Tensor) -> None:
        """Add `rows` [rows, n], a bounded number of elements at a time; what lies outside goes to the ends."""
        bins = self.counts.shape[1]
        for part in rows.split(max(1, CHUNK // rows.shape[0]), dim=1):
            index = (part - self.start[:, None].float()) / self.width[:, None].float()
            index = index.to(torch.int64).clamp_(0, bins - 1)
            part = part.double()
            self.counts.scatter_add_(1, index, torch.ones_like(part))
            self.sums.scatter_add_(1, index, part)

    def histogram(self) -> Histogram:
        """What has been filled in so far."""
        places = torch.arange(self.counts.shape[1], device=self.counts.device) + 0.5
        centres = self.start[:, None] + places * self.width[:, None]
        means = torch.where(self.counts > 0, self.sums / self.counts.clamp(min=1.0), centres).float()
        return Histogram(means, self.counts)


def bin_axis(low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Start and width, float64 [rows], of bins over [low, high] with 0 included."""
    low, high = low.reshape(-1).double().clamp(max=0.0), high.reshape(-1).double().clamp(min=0.0)
    return low, ((high - low) / bins).clamp(min=SCALE_FLOOR)


def row_histogram(rows: Tensor, low: Tensor, high: Tensor, bins: int) -> Histogram:
    """The histogram of every row of `rows` [rows, n] between its own ends."""
    filled = Bins(low, high, bins)
    filled.fill(rows)
    return filled.histogram()
