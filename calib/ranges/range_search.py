"""The two searches for the range of least error, by candidates.

A candidate grid is scored by the mean of abs(x_hat - x)^exponent. QDrop's (`mse`) tries 100 scales, crossed with every
offset where the data has both signs and the grid is asymmetric: 25,600 at 8 bits. BRECQ's (`mse_shrink`) tries 80
shares of the full range. All of them are ranked on a histogram, where the error splits into a part inside the range,
which does not depend on the offset (a running sum per scale), and two clipped tails, which depend on one end each (a
convolution); the best few are then scored exactly: a weight on its own values, an activation on its histogram's bin
means.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isobit.calib.ranges.histograms import CHUNK, Histogram, bin_axis, row_histogram
from isobit.pipeline.quant.grid import QuantSpec, scale_floor, usable_scale

SCALES = 100       # candidates of `mse`: i/100 of the full range, i = 1 ... 100
SHRINKS = 80       # candidates of `mse_shrink`: 1 - i/100 of the full range, i = 0 ... 79
ROW_BINS = 1024    # of one channel of a weight
SHORTLIST = 24     # candidates that are scored exactly
EXACT_LIMIT = 2**24  # values times candidates up to which every candidate is scored exactly
# Largest magnitudes of tensors whose errors, raised to an exponent, float32 holds; others are searched in other units.
ORDINARY = (2.0**-30, 2.0**30)


@dataclass(frozen=True)
class Points:
    """Weighted values to fit a grid to: `values` [rows, points], `counts` the same shape or None for one each."""

    values: Tensor
    counts: Tensor | None


@dataclass(frozen=True)
class _Candidates:
    """Grids `scale * (lowest ... lowest + steps)`, scales first, in the paper's order.

    Args:
        scales: [rows, scales].
        lowest: lowest codes, [rows, offsets], or [1, offsets] where every row has the same.
    """

    scales: Tensor
    lowest: Tensor
    steps: int

    @property
    def count(self) -> int:
        return self.scales.shape[1] * self.lowest.shape[1]

    def pick(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and lowest code, both [rows, n], of candidates `index` [rows, n]."""
        offsets = self.lowest.shape[1]
        return self.scales.gather(1, index // offsets), self.lowest.expand(len(index), -1).gather(1, index % offsets)


def best_range(
    points: Points, spec: QuantSpec, low: Tensor, high: Tensor, histogram: Histogram | None = None
) -> tuple[Tensor, Tensor]:
    """Ends [rows] of the best range for each row of `points`, by the search of `spec.range`.

    Args:
        low, high: extremes of each row.
        histogram: of the rows; None to make one where it is needed.
    """
    low, high = low.reshape(-1).double(), high.reshape(-1).double()
    unit = _unit(float(torch.maximum(-low, high).max()))
    if unit == 1.0:
        return _search_ordinary(points, spec, low, high, histogram)
    points = dataclasses.replace(points, values=_in_units(points.values, unit))
    if histogram is not None:
        histogram = dataclasses.replace(histogram, values=_in_units(histogram.values, unit))
    ends = _search_ordinary(points, spec, low / unit, high / unit, histogram)
    return ends[0] * unit, ends[1] * unit


def _unit(largest: float) -> float:
    """1 where a tensor of this largest magnitude is ordinary, else a power of two that makes it so."""
    ordinary = largest == 0 or ORDINARY[0] <= largest <= ORDINARY[1]
    return 1.0 if ordinary else 2.0 ** math.frexp(largest)[1]


def _in_units(values: Tensor, unit: float) -> Tensor:
    return (values.double() / unit).float()


def _search_ordinary(
    points: Points, spec: QuantSpec, low: Tensor, high: Tensor, histogram: Histogram | None
) -> tuple[Tensor, Tensor]:
    """`best_range` of values that float32 can raise to the search's exponent."""
    shrink, exponent = spec.range.kind == "mse_shrink", spec.range.exponent
    candidates = _shrunk(spec, low, high) if shrink else _candidates(spec, low, high)
    rows = points.values.shape[0]
    every = torch.arange(candidates.count, device=low.device).expand(rows, -1)
    index = every
    if points.values.numel() * candidates.count > EXACT_LIMIT:
        if histogram is None:
            histogram = row_histogram(points.values, low, high, ROW_BINS)
        rough = _rough_scores(histogram, candidates, exponent, *bin_axis(low, high, histogram.values.shape[1]))
        # Sorted, because of equal scores the paper keeps the earlier candidate.
        index = rough.topk(min(SHORTLIST, candidates.count), dim=1, largest=False).indices.sort(dim=1).values
    scales, lowest = candidates.pick(index)
    best = _exact_scores(points, scales, lowest, candidates.steps, exponent).argmin(dim=1, keepdim=True)
    scale, start = scales.gather(1, best)[:, 0], lowest.gather(1, best)[:, 0]
    if spec.symmetric and spec.grid.signed:
        # The range [-T, T] of this scale; the grid's own ends would make it (steps + 1) / steps wider.
        half = scale * candidates.steps / 2
        return -half, half
    return scale * start, scale * (start + candidates.steps)


def _candidates(spec: QuantSpec, low: Tensor, high: Tensor) -> _Candidates:
    """The 1-D or 2-D grid of candidates of `mse`; the sign type is that of the whole tensor, not of a channel."""
    grid, device = spec.grid, low.device
    steps = grid.qmax - grid.qmin
    largest = torch.maximum(low.abs(), high.abs())
    if spec.symmetric:
        widest, lowest = largest * (2 if grid.signed else 1), torch.tensor([grid.qmin], device=device)
    elif bool((low >= 0).all()):
        widest, lowest = largest, torch.tensor([0], device=device)
    elif bool((high <= 0).all()):
        widest, lowest = largest, torch.tensor([-steps], device=device)
    else:
        widest, lowest = high.clamp(min=0.0) - low.clamp(max=0.0), -torch.arange(steps + 1, device=device)
    shares = torch.arange(1, SCALES + 1, device=device, dtype=torch.float64) / SCALES
    scales = (widest[:, None] * shares / steps).clamp(min=scale_floor(widest / steps))
    return _Candidates(scales, lowest.double()[None], steps)


def _shrunk(spec: QuantSpec, low: Tensor, high: Tensor) -> _Candidates:
    """The candidates of `mse_shrink`: both ends times 1 - i/100, the full range first.

    0 is forced into the range as everywhere here, which BRECQ's own search does not do. Ends that shrink together
    keep their zero point.
    """
    grid, device = spec.grid, low.device
    steps = grid.qmax - grid.qmin
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if spec.symmetric:
        widest = torch.maximum(-low, high) * 2 if grid.signed else high
        lowest = torch.full((1, 1), float(grid.qmin), device=device, dtype=torch.float64)
    else:
        widest = high - low
        lowest = torch.round(low / usable_scale(widest / steps)).clamp(-steps, 0)[:, None]
    shares = 1 - torch.arange(SHRINKS, device=device, dtype=torch.float64) / 100
    scales = (widest[:, None] * shares / steps).clamp(min=scale_floor(widest / steps))
    return _Candidates(scales, lowest, steps)


def _exact_scores(points: Points, scales: Tensor, lowest: Tensor, steps: int, exponent: float) -> Tensor:
    """Mean error [rows, n] of n candidates (scales and lowest codes [rows, n]) on the points themselves."""
    values = points.values[:, None, :]
    weight = None if points.counts is None else points.counts[:, None, :]
    scores = []
    size = max(1, CHUNK // points.values.numel())
    for scale, start in zip(scales.float().split(size, 1), lowest.float().split(size, 1), strict=True):
        scale, start = scale[:, :, None], start[:, :, None]
        codes = torch.clamp(torch.round(values / scale), start, start + steps)
        error = (codes.mul_(scale).sub_(values)).abs_().pow_(exponent)
        scores.append((error if weight is None else error.mul_(weight)).sum(dim=2, dtype=torch.float64))
    return torch.cat(scores, dim=1)


def _rough_scores(
    histogram: Histogram, candidates: _Candidates, exponent: float, start: Tensor, width: Tensor
) -> Tensor:
    """Approximate summed error [rows, candidates] on a histogram; the order is what matters."""
    values, counts = histogram.values, histogram.counts
    rows, bins = values.shape
    above, below = _tails(counts, width, exponent)
    first = start[:, None] + 0.5 * width[:, None]
    scores = []
    for scale in candidates.scales.unbind(dim=1):
        column = scale[:, None].float()
        error = (torch.round(values / column) * column - values).abs_().pow_(exponent).double() * counts
        running = torch.cat([error.new_zeros(rows, 1), error.cumsum(dim=1)], dim=1)
        low = scale[:, None] * candidates.lowest
        high = scale[:, None] * (candidates.lowest + candidates.steps)
        from_low = ((low - first) / width[:, None]).clamp(0, bins - 1)
        to_high = ((high - first) / width[:, None]).clamp(0, bins - 1)
        inside = running.gather(1, to_high.long() + 1) - running.gather(1, from_low.ceil().long())
        scores.append(inside.clamp_(min=0.0) + _between(above, to_high) + _between(below, from_low))
    return torch.stack(scores, dim=1).reshape(rows, -1)


def _tails(counts: Tensor, width: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """Clipping error [rows, bins] of all that lies above, and below, the centre of each bin: convolutions with k^e."""
    bins = counts.shape[1]
    kernel = torch.arange(bins, device=counts.device, dtype=torch.float64).pow(exponent)
    spectrum = torch.fft.rfft(kernel, 2 * bins)
    below = torch.fft.irfft(torch.fft.rfft(counts, 2 * bins) * spectrum, 2 * bins)[:, :bins]
    above = torch.fft.irfft(torch.fft.rfft(counts.flip(1), 2 * bins) * spectrum, 2 * bins)[:, :bins].flip(1)
    unit = width[:, None].pow(exponent)
    return above.clamp(min=0.0) * unit, below.clamp(min=0.0) * unit


def _between(table: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation of `table` [rows, bins] at fractional `position` [rows, n]."""
    left = position.long()
    right = (left + 1).clamp(max=table.shape[1] - 1)
    return torch.lerp(table.gather(1, left), table.gather(1, right), position - left)
