"""Histograms: every value falls into its bin once, however it comes, and a bin stands for the mean of its values."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.ranges import histograms
from isobit.calib.ranges.histograms import Bins, bin_axis, row_histogram


def test_a_bin_stands_for_the_mean_of_what_fell_into_it_and_an_empty_one_for_its_centre() -> None:
    bins = Bins(torch.tensor(0.0), torch.tensor(3.0), 3)
    bins.fill(torch.tensor([[0.25, 0.5, 0.75, 0.5, 2.5]]))
    found = bins.histogram()
    assert found.values.tolist() == [[0.5, 1.5, 2.5]] and found.counts.tolist() == [[4.0, 0.0, 1.0]]


@pytest.mark.parametrize(("low", "high", "axis"), [
    (-1.0, 3.0, (-1.0, 1.0)), (1.0, 4.0, (0.0, 1.0)), (-4.0, -1.0, (-4.0, 1.0)),
])
def test_zero_is_inside(low: float, high: float, axis: tuple[float, float]) -> None:
    start, width = bin_axis(torch.tensor(low), torch.tensor(high), 4)
    assert (float(start), float(width)) == axis


def test_a_row_of_zeros_has_bins_of_a_width() -> None:
    start, width = bin_axis(torch.zeros(2), torch.zeros(2), 4)
    assert start.tolist() == [0.0, 0.0] and bool((width > 0).all())


def test_what_lies_outside_goes_to_the_ends() -> None:
    bins = Bins(torch.tensor(-1.0), torch.tensor(1.0), 2)
    bins.fill(torch.tensor([[-5.0, -0.5, 0.5, 7.0, 8.0]]))
    assert bins.counts.tolist() == [[2.0, 3.0]] and bins.sums.tolist() == [[-5.5, 15.5]]


@pytest.mark.parametrize("chunk", [1, 10, 64])
def test_rows_keep_to_themselves_and_parts_add_up_to_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    low, high = torch.aminmax(rows, dim=1)
    whole = row_histogram(rows, low, high, 8)
    monkeypatch.setattr(histograms, "CHUNK", chunk)
    parts = row_histogram(rows, low, high, 8)
    assert torch.equal(parts.counts, whole.counts) and torch.allclose(parts.values, whole.values)
    assert whole.counts.sum(1).tolist() == [50.0] * 3
    for row in range(3):
        alone = row_histogram(rows[row : row + 1], low[row], high[row], 8)
        assert torch.equal(alone.counts[0], whole.counts[row])
