"""Tensor statistics -> range -> scale and zero point: the range searches of `RangeSearch`, in bounded memory.

The two searches for the least error (methods_reconstruction sections 1.2 and 1.2.1) score a candidate grid by the mean
of abs(x_hat - x)^exponent. QDrop's (`mse`) tries 100 scales, crossed with every offset where the data has both signs
and the grid is asymmetric: 25,600 at 8 bits. BRECQ's (`mse_shrink`) tries 80 shares of the full range. All of them are
ranked on a histogram, where the error splits into a part inside the range, which does not depend on the offset (a
running sum per scale), and two clipped tails, which depend on one end each (a convolution); the best few are then
scored exactly: a weight on its own values, an activation on its histogram's bin means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import CalibrationError
from pipeline.grid import SCALE_FLOOR, QParams, QuantSpec, params_from_range, scale_floor, usable_scale

SCALES = 100       # candidates of `mse`: i/100 of the full range, i = 1 ... 100
SHRINKS = 80       # candidates of `mse_shrink`: 1 - i/100 of the full range, i = 0 ... 79
TWO_PASSES = {"percentile", "mse", "mse_shrink"}
BINS = 4096        # of an activation: 16 per step of the widest 8-bit grid
ROW_BINS = 1024    # of one channel of a weight
SHORTLIST = 24     # candidates that are scored exactly
EXACT_LIMIT = 2**24  # values times candidates up to which every candidate is scored exactly
CHUNK = 2**22      # elements of one temporary
# Largest magnitudes of tensors whose errors, raised to an exponent, float32 holds; others are searched in other units.
ORDINARY = (2.0**-30, 2.0**30)
# Extremes of an activation: bins of its histogram, and distances between two of its values, are normal numbers.
SMALLEST, LARGEST = BINS * SCALE_FLOOR, 2.0**126


@dataclass(frozen=True)
class _Points:
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


class RangeObserver:
    """Streaming observer of one activation; memory does not grow with the number of images.

    Call it with every batch once for the extremes, then, where `needs_second_pass`, once more with the same batches
    after `start_second_pass()`. `average` gives every call the same weight, so it depends on the size of the batches;
    nothing else does. The sign type of `mse` is decided once, between the passes, from all that was seen.

    Args:
        spec: per tensor.
        name: for errors.
    """

    def __init__(self, spec: QuantSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self._batches = 0
        self._ends: Tensor | None = None
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None

    @property
    def saw_zeros_only(self) -> bool:
        """Nothing but zeros came: the data say nothing about a scale."""
        return self.low is not None and bool((self.low == 0) & (self.high == 0))

    @property
    def needs_second_pass(self) -> bool:
        return self.spec.range.kind in TWO_PASSES

    def start_second_pass(self) -> None:
        """From now on a call fills the histogram between the extremes that the first pass found."""
        low, _ = self._span()
        self._counts = torch.zeros(1, BINS, dtype=torch.float64, device=low.device)
        self._sums = torch.zeros_like(self._counts)

    def __call__(self, x: Tensor) -> None:
        """Take in one batch [N, ...]."""
        x = x.detach()
        if self._counts is not None:
            x = x.abs() if self.spec.range.kind == "percentile" else x
            _fill(self._counts, self._sums, x.reshape(1, -1), *_axis_from(*self._span(), BINS))
            return
        low, high = torch.aminmax(x)
        ends = torch.stack([low, high]).double()
        self._batches, self._ends = self._batches + 1, ends if self._ends is None else self._ends + ends
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def params(self) -> QParams:
        """Scale and zero point for everything seen; raises CalibrationError where that was nothing or not finite."""
        low, high = self._extremes()
        if self.spec.range.kind == "average":
            low, high = self._ends / self._batches
        elif self._counts is not None and self.spec.range.kind == "percentile":
            clip = _share_below(self._counts[0], self._span()[1], self.spec.range.percentile)
            low, high = torch.maximum(low.double(), -clip), torch.minimum(high.double(), clip)
        elif self._counts is not None:
            filled = self._counts[0] > 0
            counts = self._counts[:, filled]
            points = _Points((self._sums[:, filled] / counts).float(), counts.float())
            histogram = _Points(_means(self._counts, self._sums, *_axis_from(low, high, BINS)), self._counts)
            low, high = (end[0] for end in _search(points, self.spec, low, high, histogram))
        return params_from_range(low, high, self.spec)

    def _span(self) -> tuple[Tensor, Tensor]:
        """Both ends of the histogram: of the values, or of their magnitudes for `percentile`."""
        low, high = self._extremes()
        if self.spec.range.kind == "percentile":
            return torch.zeros_like(low), torch.maximum(-low, high)
        return low, high

    def _extremes(self) -> tuple[Tensor, Tensor]:
        if self.low is None or self.high is None:
            raise CalibrationError("no data reached a quantizer", where=self.name, hint="this is a defect: report it")
        _check_finite(self.low, self.high, self.name)
        _check_size(self.low, self.high, self.name)
        return self.low, self.high


def params_of(x: Tensor, spec: QuantSpec, name: str) -> QParams:
    """Scale and zero point of an activation that is seen as one tensor, by `RangeObserver`."""
    observer = RangeObserver(spec, name)
    observer(x)
    if observer.needs_second_pass:
        observer.start_second_pass()
        observer(x)
    return observer.params()


def weight_params(weight: Tensor, spec: QuantSpec, name: str) -> QParams:
    """Scale and zero point of a constant, per channel along `spec.axis` or per tensor; `average` is min-max here.

    Raises:
        CalibrationError: values that are not finite; names the tensor.
    """
    weight = weight.detach().float()
    rows = weight.reshape(1, -1) if spec.axis is None else weight.movedim(spec.axis, 0).flatten(1)
    low, high = torch.aminmax(rows, dim=1)
    _check_finite(low, high, name)
    if spec.range.kind == "percentile":
        clip = _smallest_above(rows, spec.range.percentile)
        low, high = torch.maximum(low, -clip), torch.minimum(high, clip)
    elif spec.range.kind in TWO_PASSES:
        low, high = _search(_Points(rows, None), spec, low, high, None)
    return params_from_range(*((low[0], high[0]) if spec.axis is None else (low, high)), spec)


def _check_finite(low: Tensor, high: Tensor, name: str) -> None:
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise CalibrationError(
            "values that are not finite (NaN or infinity)", where=name, allowed="finite numbers",
            hint="look at the weights and images that lead here; a diverged training run is the usual cause",
        )


def _check_size(low: Tensor, high: Tensor, name: str) -> None:
    largest = float(torch.maximum(-low, high))
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise CalibrationError(
            f"values of up to {largest:.3g}: float32 holds no steps of such a range", where=name,
            allowed=f"zeros, or a range of {SMALLEST:.2g} to {LARGEST:.2g}",
            hint="look at the units of the images and at the weights that lead here",
        )


def _share_below(counts: Tensor, largest: Tensor, share: float) -> Tensor:
    """Magnitude at which `share` of a histogram `counts` [bins] over [0, largest] is reached, to within one bin.

    Inside the bin the values are taken as evenly spread; at share 1 that is exactly `largest`.
    """
    below = counts.cumsum(0)
    wanted = share * below[-1]
    index = torch.searchsorted(below, wanted).clamp(max=len(counts) - 1)
    part = (wanted - (below[index] - counts[index])) / counts[index]
    return largest.double() * (index + part) / len(counts)


def _smallest_above(rows: Tensor, share: float) -> Tensor:
    """Smallest magnitude [rows] that at least `share` of its row does not exceed."""
    # A hair less, so that 0.9 of 10 values are 9 of them in binary fractions too.
    count = math.ceil(share * rows.shape[1] * (1 - 2.0**-40))
    return rows.abs().kthvalue(max(1, count), dim=1).values


def _search(
    points: _Points, spec: QuantSpec, low: Tensor, high: Tensor, histogram: _Points | None
) -> tuple[Tensor, Tensor]:
    """Ends [rows] of the best range for each row of `points`, whose extremes are `low` and `high`."""
    low, high = low.reshape(-1).double(), high.reshape(-1).double()
    unit = _unit(float(torch.maximum(-low, high).max()))
    if unit == 1.0:
        return _search_ordinary(points, spec, low, high, histogram)
    points = _in_units(points, unit)
    histogram = None if histogram is None else _in_units(histogram, unit)
    ends = _search_ordinary(points, spec, low / unit, high / unit, histogram)
    return ends[0] * unit, ends[1] * unit


def _unit(largest: float) -> float:
    """1 where a tensor of this largest magnitude is ordinary, else a power of two that makes it so."""
    ordinary = largest == 0 or ORDINARY[0] <= largest <= ORDINARY[1]
    return 1.0 if ordinary else 2.0 ** math.frexp(largest)[1]


def _in_units(points: _Points, unit: float) -> _Points:
    return _Points((points.values.double() / unit).float(), points.counts)


def _search_ordinary(
    points: _Points, spec: QuantSpec, low: Tensor, high: Tensor, histogram: _Points | None
) -> tuple[Tensor, Tensor]:
    """`_search` of values that float32 can raise to the search's exponent."""
    shrink, exponent = spec.range.kind == "mse_shrink", spec.range.exponent
    candidates = _shrunk(spec, low, high) if shrink else _candidates(spec, low, high)
    rows = points.values.shape[0]
    every = torch.arange(candidates.count, device=low.device).expand(rows, -1)
    index = every
    if points.values.numel() * candidates.count > EXACT_LIMIT:
        if histogram is None:
            histogram = _row_histogram(points.values, low, high)
        rough = _rough_scores(histogram, candidates, exponent, *_axis_from(low, high, histogram.values.shape[1]))
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


def _exact_scores(points: _Points, scales: Tensor, lowest: Tensor, steps: int, exponent: float) -> Tensor:
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


def _axis_from(low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Start and width [rows] of the bins of a histogram over [low, high] with 0 included."""
    low, high = low.reshape(-1).double().clamp(max=0.0), high.reshape(-1).double().clamp(min=0.0)
    return low, ((high - low) / bins).clamp(min=SCALE_FLOOR)


def _fill(counts: Tensor, sums: Tensor, rows: Tensor, start: Tensor, width: Tensor) -> None:
    """Add `rows` [rows, n] to a histogram in place, a bounded number of elements at a time."""
    bins = counts.shape[1]
    for part in rows.split(max(1, CHUNK // rows.shape[0]), dim=1):
        index = ((part - start[:, None].float()) / width[:, None].float()).to(torch.int64).clamp_(0, bins - 1)
        part = part.double()
        counts.scatter_add_(1, index, torch.ones_like(part))
        sums.scatter_add_(1, index, part)


def _means(counts: Tensor, sums: Tensor, start: Tensor, width: Tensor) -> Tensor:
    """Mean value of each bin, its centre where it is empty."""
    centres = start[:, None] + (torch.arange(counts.shape[1], device=counts.device) + 0.5) * width[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1.0), centres).float()


def _row_histogram(rows: Tensor, low: Tensor, high: Tensor) -> _Points:
    counts = torch.zeros(rows.shape[0], ROW_BINS, dtype=torch.float64, device=rows.device)
    sums = torch.zeros_like(counts)
    start, width = _axis_from(low, high, ROW_BINS)
    _fill(counts, sums, rows, start, width)
    return _Points(_means(counts, sums, start, width), counts)


def _rough_scores(
    histogram: _Points, candidates: _Candidates, exponent: float, start: Tensor, width: Tensor
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
