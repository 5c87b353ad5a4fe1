"""Tensor statistics -> range -> scale and zero point: min-max and the MSE grid search of QDrop's released code.

The search (methods_reconstruction section 1.2.1) scores a candidate grid by the mean of abs(x_hat - x)^2.4. Its
candidates are 100 scales, crossed with every offset where the data has both signs and the grid is asymmetric: 25,600
at 8 bits. All of them are ranked on a histogram, where the error splits into a part inside the range, which does not
depend on the offset (a running sum per scale), and two clipped tails, which depend on one end each (a convolution);
the best few are then scored exactly: a weight on its own values, an activation on its histogram's bin means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import CalibrationError
from pipeline.grid import SCALE_FLOOR, QParams, QuantSpec, params_from_range

EXPONENT = 2.4     # BRECQ, QDrop, PD-Quant
SCALES = 100       # candidates i/100 of the full range
BINS = 4096        # of an activation: 16 per step of the widest 8-bit grid
ROW_BINS = 1024    # of one channel of a weight
SHORTLIST = 24     # candidates that are scored exactly
EXACT_LIMIT = 2**24  # values times candidates up to which every candidate is scored exactly
CHUNK = 2**22      # elements of one temporary


@dataclass(frozen=True)
class _Points:
    """Weighted values to fit a grid to: `values` [rows, points], `counts` the same shape or None for one each."""

    values: Tensor
    counts: Tensor | None


@dataclass(frozen=True)
class _Candidates:
    """Grids `scale * (lowest ... lowest + steps)`, scales first, in the paper's order.

    Args:
        scales: [rows, SCALES].
        lowest: lowest codes, [offsets].
    """

    scales: Tensor
    lowest: Tensor
    steps: int

    @property
    def count(self) -> int:
        return self.scales.shape[1] * self.lowest.numel()

    def pick(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and lowest code, both [rows, n], of candidates `index` [rows, n]."""
        offsets = self.lowest.numel()
        return self.scales.gather(1, index // offsets), self.lowest[index % offsets]


class RangeObserver:
    """Streaming observer of one activation; memory does not grow with the number of images.

    Call it with every batch once for the extremes, then, where `needs_second_pass`, once more with the same batches
    after `start_second_pass()`.

    Args:
        spec: per tensor; `spec.range` is `minmax` or `mse`.
        name: for errors.
    """

    def __init__(self, spec: QuantSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None

    @property
    def needs_second_pass(self) -> bool:
        return self.spec.range == "mse"

    def start_second_pass(self) -> None:
        """From now on a call fills the histogram between the extremes that the first pass found."""
        low, _ = self._extremes()
        self._counts = torch.zeros(1, BINS, dtype=torch.float64, device=low.device)
        self._sums = torch.zeros_like(self._counts)

    def __call__(self, x: Tensor) -> None:
        """Take in one batch [N, ...]."""
        x = x.detach()
        if self._counts is not None:
            _fill(self._counts, self._sums, x.reshape(1, -1), *_axis_from(*self._extremes(), BINS))
            return
        low, high = torch.aminmax(x)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def params(self) -> QParams:
        """Scale and zero point for everything seen; raises CalibrationError where that was nothing or not finite."""
        low, high = self._extremes()
        if self._counts is not None:
            filled = self._counts[0] > 0
            counts = self._counts[:, filled]
            points = _Points((self._sums[:, filled] / counts).float(), counts.float())
            histogram = _Points(_means(self._counts, self._sums, *_axis_from(low, high, BINS)), self._counts)
            low, high = (end[0] for end in _search(points, self.spec, low, high, histogram))
        return params_from_range(low, high, self.spec)

    def _extremes(self) -> tuple[Tensor, Tensor]:
        if self.low is None or self.high is None:
            raise CalibrationError("no data reached a quantizer", where=self.name, hint="this is a defect: report it")
        _check_finite(self.low, self.high, self.name)
        return self.low, self.high


def weight_params(weight: Tensor, spec: QuantSpec, name: str) -> QParams:
    """Scale and zero point of a constant, per channel along `spec.axis` or per tensor.

    Raises:
        CalibrationError: values that are not finite; names the tensor.
    """
    weight = weight.detach().float()
    rows = weight.reshape(1, -1) if spec.axis is None else weight.movedim(spec.axis, 0).flatten(1)
    low, high = torch.aminmax(rows, dim=1)
    _check_finite(low, high, name)
    if spec.range == "mse":
        low, high = _search(_Points(rows, None), spec, low, high, None)
    return params_from_range(*((low[0], high[0]) if spec.axis is None else (low, high)), spec)


def _check_finite(low: Tensor, high: Tensor, name: str) -> None:
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise CalibrationError(
            "values that are not finite (NaN or infinity)", where=name, allowed="finite numbers",
            hint="look at the weights and images that lead here; a diverged training run is the usual cause",
        )


def _search(
    points: _Points, spec: QuantSpec, low: Tensor, high: Tensor, histogram: _Points | None
) -> tuple[Tensor, Tensor]:
    """Ends [rows] of the best range for each row of `points`, whose extremes are `low` and `high`."""
    low, high = low.reshape(-1).double(), high.reshape(-1).double()
    candidates = _candidates(spec, low, high)
    rows = points.values.shape[0]
    every = torch.arange(candidates.count, device=low.device).expand(rows, -1)
    index = every
    if points.values.numel() * candidates.count > EXACT_LIMIT:
        if histogram is None:
            histogram = _row_histogram(points.values, low, high)
        rough = _rough_scores(histogram, candidates, *_axis_from(low, high, histogram.values.shape[1]))
        # Sorted, because of equal scores the paper keeps the earlier candidate.
        index = rough.topk(min(SHORTLIST, candidates.count), dim=1, largest=False).indices.sort(dim=1).values
    scales, lowest = candidates.pick(index)
    best = _exact_scores(points, scales, lowest, candidates.steps).argmin(dim=1, keepdim=True)
    scale, start = scales.gather(1, best)[:, 0], lowest.gather(1, best)[:, 0]
    return scale * start, scale * (start + candidates.steps)


def _candidates(spec: QuantSpec, low: Tensor, high: Tensor) -> _Candidates:
    """The 1-D or 2-D grid of candidates; the sign type is that of the whole tensor, not of a channel."""
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
    scales = (widest[:, None] * shares / steps).clamp(min=SCALE_FLOOR)
    return _Candidates(scales, lowest.double(), steps)


def _exact_scores(points: _Points, scales: Tensor, lowest: Tensor, steps: int) -> Tensor:
    """Mean error [rows, n] of n candidates (scales and lowest codes [rows, n]) on the points themselves."""
    values = points.values[:, None, :]
    weight = None if points.counts is None else points.counts[:, None, :]
    scores = []
    size = max(1, CHUNK // points.values.numel())
    for scale, start in zip(scales.float().split(size, 1), lowest.float().split(size, 1), strict=True):
        scale, start = scale[:, :, None], start[:, :, None]
        codes = torch.clamp(torch.round(values / scale), start, start + steps)
        error = (codes.mul_(scale).sub_(values)).abs_().pow_(EXPONENT)
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


def _rough_scores(histogram: _Points, candidates: _Candidates, start: Tensor, width: Tensor) -> Tensor:
    """Approximate summed error [rows, candidates] on a histogram; the order is what matters."""
    values, counts = histogram.values, histogram.counts
    rows, bins = values.shape
    above, below = _tails(counts, width)
    first = start[:, None] + 0.5 * width[:, None]
    scores = []
    for scale in candidates.scales.unbind(dim=1):
        column = scale[:, None].float()
        error = (torch.round(values / column) * column - values).abs_().pow_(EXPONENT).double() * counts
        running = torch.cat([error.new_zeros(rows, 1), error.cumsum(dim=1)], dim=1)
        low = scale[:, None] * candidates.lowest
        high = scale[:, None] * (candidates.lowest + candidates.steps)
        from_low = ((low - first) / width[:, None]).clamp(0, bins - 1)
        to_high = ((high - first) / width[:, None]).clamp(0, bins - 1)
        inside = running.gather(1, to_high.long() + 1) - running.gather(1, from_low.ceil().long())
        scores.append(inside.clamp_(min=0.0) + _between(above, to_high) + _between(below, from_low))
    return torch.stack(scores, dim=1).reshape(rows, -1)


def _tails(counts: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Clipping error [rows, bins] of everything above, and below, the centre of each bin: convolutions with k^2.4."""
    bins = counts.shape[1]
    kernel = torch.arange(bins, device=counts.device, dtype=torch.float64).pow(EXPONENT)
    spectrum = torch.fft.rfft(kernel, 2 * bins)
    below = torch.fft.irfft(torch.fft.rfft(counts, 2 * bins) * spectrum, 2 * bins)[:, :bins]
    above = torch.fft.irfft(torch.fft.rfft(counts.flip(1), 2 * bins) * spectrum, 2 * bins)[:, :bins].flip(1)
    unit = width[:, None].pow(EXPONENT)
    return above.clamp(min=0.0) * unit, below.clamp(min=0.0) * unit


def _between(table: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation of `table` [rows, bins] at fractional `position` [rows, n]."""
    left = position.long()
    right = (left + 1).clamp(max=table.shape[1] - 1)
    return torch.lerp(table.gather(1, left), table.gather(1, right), position - left)
