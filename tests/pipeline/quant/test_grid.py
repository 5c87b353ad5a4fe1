"""The formula against torch's own fake-quantization, ties included, and the edges of ranges."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isobit.pipeline.quant.grid import (
    EMPTY_SCALE,
    Grid,
    QParams,
    QuantSpec,
    RangeSearch,
    along,
    dequantize,
    params_from_range,
    quantize,
)

GRIDS = st.builds(Grid, st.integers(2, 8), st.booleans(), st.booleans())
# Powers of two make ties exact: x / scale is a multiple of one half in both implementations.
SCALES = st.sampled_from([2.0**-7, 0.25, 1.0, 4.0])
SYMMETRIC = QuantSpec(Grid(4, signed=True), symmetric=True)
ASYMMETRIC = QuantSpec(Grid(4, signed=False), symmetric=False)


def halves(low=-600, high=600):
    """Multiples of one half as a tensor: every second one is a tie."""
    return st.lists(st.integers(low, high), min_size=1, max_size=40).map(lambda v: torch.tensor(v) / 2)


@given(grid=GRIDS, scale=SCALES, x=halves(), data=st.data())
def test_per_tensor_agrees_with_torch_on_ties(grid, scale, x, data):
    zero_point = data.draw(st.integers(grid.qmin, grid.qmax))
    x = x * scale
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, grid.qmin, grid.qmax)
    codes = quantize(x, torch.tensor(scale), torch.tensor(zero_point), grid)
    assert torch.equal(dequantize(codes, torch.tensor(scale), torch.tensor(zero_point)), expected)


@given(grid=GRIDS, data=st.data())
def test_per_channel_agrees_with_torch_on_ties(grid, data):
    channels = data.draw(st.integers(1, 4))
    scale = torch.tensor(data.draw(st.lists(SCALES, min_size=channels, max_size=channels)))
    points = st.lists(st.integers(grid.qmin, grid.qmax), min_size=channels, max_size=channels)
    zero_point = torch.tensor(data.draw(points), dtype=torch.int32)
    values = data.draw(st.lists(st.integers(-600, 600), min_size=3 * channels, max_size=3 * channels))
    x = torch.tensor(values).reshape(3, channels) / 2 * scale
    expected = torch.fake_quantize_per_channel_affine(x, scale, zero_point, 1, grid.qmin, grid.qmax)
    wide_scale, wide_point = along(scale, 1, 2), along(zero_point, 1, 2)
    assert torch.equal(dequantize(quantize(x, wide_scale, wide_point, grid), wide_scale, wide_point), expected)


@given(grid=GRIDS, data=st.data())
def test_codes_survive_a_round_trip(grid, data):
    scale = torch.tensor(data.draw(st.floats(2.0**-20, 2.0**10, width=32)))
    zero_point = torch.tensor(data.draw(st.integers(grid.qmin, grid.qmax)))
    codes = torch.arange(grid.qmin, grid.qmax + 1).float()
    assert torch.equal(quantize(dequantize(codes, scale, zero_point), scale, zero_point, grid), codes)


def test_ties_go_to_even_before_the_zero_point_is_added():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    codes = quantize(x, torch.tensor(1.0), torch.tensor(3), Grid(8, signed=False))
    assert codes.tolist() == [3, 5, 5, 3, 1]


@pytest.mark.parametrize(
    ("grid", "ends"),
    [
        (Grid(8, True), (-128, 127)), (Grid(8, True, narrow=True), (-127, 127)), (Grid(8, False), (0, 255)),
        (Grid(4, False, narrow=True), (0, 15)), (Grid(2, True), (-2, 1)), (Grid(8, True, limit=64), (-64, 64)),
        (Grid(7, True, limit=64), (-64, 63)), (Grid(4, True, limit=64), (-8, 7)), (Grid(8, False, limit=64), (0, 64)),
    ],
)  # fmt: skip
def test_ends_of_grids(grid, ends):
    assert (grid.qmin, grid.qmax) == ends
    assert grid.levels == ends[1] - ends[0] + 1


@pytest.mark.parametrize("make", [lambda: Grid(0, True), lambda: Grid(33, True), lambda: Grid(1, True, narrow=True)])
def test_grids_without_two_codes_are_refused(make):
    with pytest.raises(ValueError, match="grid has"):
        make()


def test_descriptions_are_frozen_values():
    assert Grid(4, True) == Grid(4, True) and hash(SYMMETRIC) == hash(dataclasses.replace(SYMMETRIC))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SYMMETRIC.symmetric = False


def test_a_range_search_is_one_of_a_few():
    assert ASYMMETRIC.range == RangeSearch("mse", exponent=2.4)
    with pytest.raises(ValueError, match="no range search 'max', only minmax, average"):
        RangeSearch("max")


RANGE = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=200)
@given(grid=GRIDS, symmetric=st.booleans(), ends=st.tuples(RANGE, RANGE).map(sorted))
def test_zero_is_a_code_and_the_range_is_covered(grid, symmetric, ends):
    if symmetric and not grid.signed:
        ends = [max(end, 0.0) for end in ends]  # such a grid holds no negative values by contract
    params = params_from_range(torch.tensor(ends[0]), torch.tensor(ends[1]), QuantSpec(grid, symmetric))
    x = torch.tensor([0.0, *ends], dtype=torch.float64)
    scale, zero_point = params.scale.double(), params.zero_point.double()
    values = dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)
    assert values[0] == 0
    # Half a step of rounding; another half is cut at one end where the zero point was rounded or the grid is uneven.
    assert (values - x).abs().max() <= scale * 1.001


def test_zero_range_gets_the_floor():
    for spec in (SYMMETRIC, ASYMMETRIC, QuantSpec(Grid(4, False), True)):
        params = params_from_range(torch.tensor(0.0), torch.tensor(0.0), spec)
        assert params.scale == torch.tensor(EMPTY_SCALE)
        assert spec.grid.qmin <= int(params.zero_point) <= spec.grid.qmax


def test_one_sided_ranges_are_extended_to_zero():
    above = params_from_range(torch.tensor(2.0), torch.tensor(3.0), ASYMMETRIC)
    below = params_from_range(torch.tensor(-3.0), torch.tensor(-2.0), ASYMMETRIC)
    assert (float(above.scale), int(above.zero_point)) == (pytest.approx(0.2), 0)
    assert (float(below.scale), int(below.zero_point)) == (pytest.approx(0.2), 15)


@pytest.mark.parametrize(
    ("grid", "scale"),
    [(Grid(8, True), 2 / 255), (Grid(8, True, narrow=True), 2 / 254), (Grid(8, True, limit=64), 1 / 64),
     (Grid(8, False), 1 / 255)],
)  # fmt: skip
def test_symmetric_scales(grid, scale):
    params = params_from_range(torch.tensor(-1.0 if grid.signed else 0.0), torch.tensor(1.0), QuantSpec(grid, True))
    assert float(params.scale) == pytest.approx(scale)
    assert int(params.zero_point) == 0


def test_channels_have_their_own_numbers():
    spec = QuantSpec(Grid(4, False), False, axis=0)
    params = params_from_range(torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([0.5, 3.0, 0.0]), spec)
    assert params.scale.tolist() == pytest.approx([0.1, 0.2, EMPTY_SCALE])
    assert params.zero_point.tolist() == [10, 0, 0]
    assert (params.scale.dtype, params.zero_point.dtype) == (torch.float32, torch.int32)


@pytest.mark.parametrize(
    ("scale", "zero_point", "words"),
    [
        (torch.tensor([1.0]), torch.tensor([0]), "rank 0"),
        (torch.tensor(1.0), torch.tensor([0]), "rank 0"),
        (torch.tensor(0.0), torch.tensor(0), "positive"),
        (torch.tensor(-1.0), torch.tensor(0), "positive"),
        (torch.tensor(float("nan")), torch.tensor(0), "finite"),
        (torch.tensor(float("inf")), torch.tensor(0), "finite"),
        (torch.tensor(1.0), torch.tensor(16), "zero points 16"),
        (torch.tensor(1.0), torch.tensor(-1), "zero points -1"),
    ],
)
def test_numbers_that_do_not_fit_their_spec(scale, zero_point, words):
    with pytest.raises(ValueError, match=words):
        QParams(scale, zero_point).check(ASYMMETRIC)


def test_symmetric_means_zero_point_zero():
    with pytest.raises(ValueError, match="zero points 1"):
        QParams(torch.tensor(1.0), torch.tensor(1)).check(SYMMETRIC)
