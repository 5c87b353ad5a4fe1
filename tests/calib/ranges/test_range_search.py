"""The searches for the range of least error against every candidate of theirs, one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isobit.calib.ranges import range_search
from isobit.calib.ranges.histograms import row_histogram
from isobit.calib.ranges.range_search import Points, best_range
from isobit.pipeline.quant.grid import Grid, QuantSpec, RangeSearch

ROWS = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
EVERY_SEARCH = pytest.mark.parametrize("search", ["mse", "mse_shrink"])


def ends(rows: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    return best_range(Points(rows, None), spec, *torch.aminmax(rows, dim=1))


def error(rows: Tensor, low: Tensor, high: Tensor, steps: int, exponent: float) -> Tensor:
    """Mean error [rows] of grids of `steps` steps between `low` and `high`, both multiples of their step."""
    scale = ((high - low) / steps)[:, None]
    least = torch.round(low[:, None] / scale)
    values = torch.clamp(torch.round(rows / scale), least, least + steps) * scale
    return (values - rows).abs().pow(exponent).mean(1)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
def test_of_a_symmetric_grid_the_best_of_100_scales_is_found_in_every_row(exponent: float) -> None:
    rows, steps = ROWS.abs().double(), 15
    spec = QuantSpec(Grid(4, signed=False), True, 0, RangeSearch("mse", exponent))
    low, high = ends(rows.float(), spec)
    tried = [error(rows, torch.zeros(3), rows.amax(1) * share / 100, steps, exponent) for share in range(1, 101)]
    best = torch.stack(tried).argmin(0) + 1
    assert not low.any() and torch.allclose(high, rows.amax(1) * best / 100, rtol=1e-6)


@EVERY_SEARCH
def test_ranking_on_a_histogram_finds_nearly_the_best(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = QuantSpec(Grid(4, signed=False), False, 0, RangeSearch(search))
    monkeypatch.setattr(range_search, "EXACT_LIMIT", 2**60)
    best = error(ROWS, *ends(ROWS, spec), 15, 2.4)
    monkeypatch.setattr(range_search, "EXACT_LIMIT", 0)
    assert bool((error(ROWS, *ends(ROWS, spec), 15, 2.4) <= best * 1.002).all())


@EVERY_SEARCH
def test_values_that_occur_twice_count_twice(search: str) -> None:
    spec = QuantSpec(Grid(3, signed=True), True, None, RangeSearch(search))
    counts = torch.arange(ROWS.shape[1]) % 3 + 1
    repeated = ROWS[:1].repeat_interleave(counts, 1)
    low, high = torch.aminmax(repeated, dim=1)
    weighted = best_range(Points(ROWS[:1], counts[None].float()), spec, low, high)
    assert all(torch.equal(a, b) for a, b in zip(weighted, ends(repeated, spec), strict=True))


@EVERY_SEARCH
@pytest.mark.parametrize("unit", [2.0**-60, 2.0**60])
def test_units_that_errors_would_leave_float32_in_change_nothing(
    search: str, unit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = QuantSpec(Grid(4, signed=False), False, 0, RangeSearch(search, 4.0))
    plain, other = ends(ROWS, spec), ends(ROWS * unit, spec)
    assert all(torch.equal(a * unit, b) for a, b in zip(plain, other, strict=True))
    monkeypatch.setattr(range_search, "EXACT_LIMIT", 0)
    ranked = [
        best_range(Points(rows, None), spec, *rows.aminmax(dim=1), row_histogram(rows, *rows.aminmax(dim=1), 64))
        for rows in (ROWS, ROWS * unit)
    ]
    assert all(torch.equal(a * unit, b) for a, b in zip(*ranked, strict=True))
