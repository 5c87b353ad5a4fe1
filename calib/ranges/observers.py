"""Tensor statistics -> range -> scale and zero point: the range searches of `RangeSearch`, in bounded memory.

`calib.ranges.range_search` looks for the range of least error; what takes extremes, averages or shares is here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isobit.calib.ranges.histograms import Bins
from isobit.calib.ranges.range_search import Points, best_range
from isobit.calib.ranges.told_apart import EVERYTHING, Ends
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.quant.grid import SCALE_FLOOR, QParams, QuantSpec, params_from_range
from isobit.pipeline.samples.batching import LARGEST_BATCH

TWO_PASSES = {"percentile", "mse", "mse_shrink"}
BINS = 4096  # of an activation: 16 per step of the widest 8-bit grid
# Extremes of an activation: bins of its histogram, and distances between two of its values, are normal numbers.
SMALLEST, LARGEST = BINS * SCALE_FLOOR, 2.0**126


class RangeObserver:
    """Streaming observer of one activation; memory does not grow with the number of images.

    Call it with every batch once for the extremes, then, where `needs_second_pass`, once more with the same batches
    after `start_second_pass()`. `average` gives every batch the same weight, so it depends on their size; nothing
    else does. The sign type of `mse` is decided once, between the passes, from all that was seen.

    Args:
        spec: per tensor.
        name: for errors.
        split: one batch comes in several calls, and `went_on` says where it ends; otherwise in one.
        ends: what lies beyond is taken for them (`pipeline.graph.told_apart`).
    """

    def __init__(self, spec: QuantSpec, name: str, split: bool = False, ends: Ends = EVERYTHING) -> None:
        self.spec, self.name, self._split = spec, name, split
        self._least, self._greatest = ends
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self._batches = 0
        self._ends: Tensor | None = None
        self._open: Tensor | None = None  # [calls, 2]: ends of the batch that goes on, by call of a forward pass
        self._place = 0
        self._bins: Bins | None = None

    @property
    def saw_zeros_only(self) -> bool:
        """Nothing but zeros came: the data say nothing about a scale."""
        return self.low is not None and bool((self.low == 0) & (self.high == 0))

    @property
    def needs_second_pass(self) -> bool:
        return self.spec.range.kind in TWO_PASSES

    def start_second_pass(self) -> None:
        """From now on a call fills the histogram between the extremes that the first pass found."""
        self._bins = Bins(*self._span(), BINS)

    def __call__(self, x: Tensor) -> None:
        """Take in one batch [N, ...]."""
        x = x.detach()
        x = x if (self._least, self._greatest) == EVERYTHING else x.clamp(self._least, self._greatest)
        if self._bins is not None:
            x = x.abs() if self.spec.range.kind == "percentile" else x
            self._bins.fill(x.reshape(1, -1))
            return
        low, high = torch.aminmax(x)
        ends = torch.stack([low, high]).double()
        self._add(ends)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def _add(self, ends: Tensor) -> None:
        if self._open is None:
            self._open = ends[None]
        elif self._place == len(self._open):
            self._open = torch.cat([self._open, ends[None]])
        else:
            known = self._open[self._place]
            known[0], known[1] = torch.minimum(known[0], ends[0]), torch.maximum(known[1], ends[1])
        self._place += 1
        if not self._split:
            self._close()

    def went_on(self, images: int) -> None:
        """A forward pass is over, `images` in all have been seen: the next one starts a batch, or goes on with it."""
        self._place = 0
        if images % LARGEST_BATCH == 0:
            self._close()

    def _close(self) -> None:
        for ends in () if self._open is None else self._open:
            self._batches, self._ends = self._batches + 1, ends if self._ends is None else self._ends + ends
        self._open, self._place = None, 0

    def params(self) -> QParams:
        """Scale and zero point for everything seen; raises CalibrationError where that was nothing or not finite."""
        self._close()
        low, high = self._extremes()
        if self.spec.range.kind == "average" and self._ends is not None:
            low, high = self._ends / self._batches
        elif self._bins is not None and self.spec.range.kind == "percentile":
            clip = _share_below(self._bins.counts[0], self._span()[1], self.spec.range.percentile)
            low, high = torch.maximum(low.double(), -clip), torch.minimum(high.double(), clip)
        elif self._bins is not None:
            filled = self._bins.counts[0] > 0
            counts = self._bins.counts[:, filled]
            points = Points((self._bins.sums[:, filled] / counts).float(), counts.float())
            low, high = (end[0] for end in best_range(points, self.spec, low, high, self._bins.histogram()))
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
        check_finite(self.low, self.high, self.name)
        _check_size(self.low, self.high, self.name)
        return self.low, self.high


def params_of(x: Tensor, spec: QuantSpec, name: str, ends: Ends = EVERYTHING) -> QParams:
    """Scale and zero point of an activation that is seen as one tensor, by `RangeObserver`."""
    observer = RangeObserver(spec, name, ends=ends)
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
    check_finite(low, high, name)
    if spec.range.kind == "percentile":
        clip = _smallest_above(rows, spec.range.percentile)
        low, high = torch.maximum(low, -clip), torch.minimum(high, clip)
    elif spec.range.kind in TWO_PASSES:
        low, high = best_range(Points(rows, None), spec, low, high)
    return params_from_range(*((low[0], high[0]) if spec.axis is None else (low, high)), spec)


def check_finite(low: Tensor, high: Tensor, name: str) -> None:
    """Refuse ends of a tensor that are not finite.

    Raises:
        CalibrationError: names the tensor.
    """
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
