"""Range searches against their formulas, written as plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from isobit.calib.ranges import observers, range_search
from isobit.calib.ranges.observers import RangeObserver, weight_params
from isobit.pipeline.quant.grid import (
    QParams,
)
from tests.examples.range_searches import (
    error,
    literal_mse,
    literal_shrink,
    noise,
    observed,
    same,
    spec,
)

# --- the MSE search ---


@pytest.mark.parametrize(("values", "zero_point"), [((0, 1, 2, 3), 0), ((-1, 0, 1, 2), 1)])
def test_a_tensor_on_a_grid_is_found(values: tuple[int, ...], zero_point: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    for search in ("mse", "mse_shrink"):
        of = spec(2, search=search)
        for params in (observed(x, of), weight_params(x, of, "w")):
            assert float(params.scale) == pytest.approx(1.0) and int(params.zero_point) == zero_point
            assert error(x, params, of) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("search", ["mse", "mse_shrink"])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_never_worse_than_the_full_range(bits: int, shift: float, search: str) -> None:
    x, of = noise(5000, 3, shift), spec(bits, search=search)
    full = observed(x, spec(bits, search="minmax"))
    assert error(x, observed(x, of, parts=5), of) <= error(x, full, of) * 1.001
    assert error(x, weight_params(x, of, "w"), of) <= error(x, full, of)


def test_per_channel_is_each_channel_alone() -> None:
    weight = noise(6 * 40, 1).reshape(6, 40)
    for search in ("mse", "mse_shrink"):
        # abs: all channels, and so each alone, of the sign type `pos`.
        for rows in (weight, weight.abs(), -weight.abs()):
            together = weight_params(rows, spec(4, axis=0, search=search), "w")
            alone = [weight_params(channel, spec(4, search=search), "w") for channel in rows]
            assert torch.equal(together.scale, torch.stack([params.scale for params in alone]))
            assert torch.equal(together.zero_point, torch.stack([params.zero_point for params in alone]))


@pytest.mark.parametrize("exponent", [2.0, 2.4])
def test_the_search_is_the_papers_loop_for_each_sign_type(exponent: float) -> None:
    both, bits = noise(60, 5), 3
    of, rows = spec(bits, exponent=exponent), spec(bits, axis=0, exponent=exponent)
    for x, sign in ((both, "both"), (both.abs(), "pos"), (-both.abs(), "neg")):
        literal = literal_mse(x, bits, sign, exponent)
        assert same(weight_params(x, of, "w"), literal) and same(observed(x, of, parts=2), literal)
    # A channel of one sign in a tensor of both is searched in two dimensions, with 0 forced into its range.
    positive = both.abs() + 0.5
    params = weight_params(torch.stack([positive, both]), rows, "w")
    for channel, x in enumerate((positive, both)):
        one = QParams(params.scale[channel], params.zero_point[channel])
        assert same(one, literal_mse(x, bits, "both", exponent))


def test_equal_scores_keep_the_earlier_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mirrored data scores zero points 1 and 2 alike.
    x = torch.tensor([-1.0, 1.0])
    for limit in (range_search.EXACT_LIMIT, 0):
        monkeypatch.setattr(range_search, "EXACT_LIMIT", limit)
        for params in (weight_params(x, spec(2), "w"), observed(x, spec(2))):
            assert same(params, literal_mse(x, 2, "both")) and int(params.zero_point) == 1


def test_sign_type_is_the_whole_tensors() -> None:
    weight = torch.stack([torch.linspace(0.1, 1, 20), torch.linspace(-1, 1, 20)])
    params = weight_params(weight, spec(4, axis=0), "w")
    # With both signs somewhere every channel is searched in two dimensions; this one still needs no negative code.
    assert int(params.zero_point[0]) == 0 and int(params.zero_point[1]) > 0


def test_sign_type_is_decided_once_for_all_batches() -> None:
    # The released code decides from its first batch; here all batches of the first pass decide, in any order.
    positive, both = noise(200, 1).abs() + 0.1, noise(200, 2)
    of, found = spec(3), []
    for batches in ((positive, both), (both, positive)):
        observer = RangeObserver(of, "node x")
        for batch in batches:
            observer(batch)
        observer.start_second_pass()
        for batch in batches:
            observer(batch)
        found.append(observer.params())
    assert torch.equal(found[0].scale, found[1].scale) and torch.equal(found[0].zero_point, found[1].zero_point)
    assert int(found[0].zero_point) > 0
    # What comes after the first pass does not change the type any more: this stays one-sided.
    observer = RangeObserver(of, "node x")
    observer(positive)
    observer.start_second_pass()
    observer(torch.cat([positive, both]))
    assert int(observer.params().zero_point) == 0


# --- the other searches ---


@pytest.mark.parametrize("exponent", [2.0, 2.4])
@pytest.mark.parametrize("bits", [2, 4])
def test_mse_shrink_is_the_loop_over_80_shares(bits: int, exponent: float) -> None:
    of = spec(bits, search="mse_shrink", exponent=exponent)
    rows = [noise(90, 7), noise(90, 8).abs() ** 2, -noise(90, 9).abs(), noise(90, 10, 3.0)]
    together = weight_params(torch.stack(rows), spec(bits, axis=0, search="mse_shrink", exponent=exponent), "w")
    for channel, x in enumerate(rows):
        literal = literal_shrink(x, bits, exponent)
        assert same(QParams(together.scale[channel], together.zero_point[channel]), literal)
        assert same(observed(x, of, parts=3), literal)


@pytest.mark.parametrize(
    ("search", "signed"),
    [("mse", True), ("mse", False), ("mse_shrink", True), ("mse_shrink", False)],
)
def test_a_symmetric_grid_gets_the_best_of_the_scales(search: str, signed: bool) -> None:
    x = noise(400, 11) if signed else noise(400, 11).abs()
    of = spec(3, symmetric=True, signed=signed, search=search)
    shares = [1 - 0.01 * i for i in range(80)] if search == "mse_shrink" else [0.01 * i for i in range(1, 101)]
    width = float(x.abs().max()) * (2 if signed else 1)
    scales = [torch.tensor(width * share / 7) for share in shares]
    best = min(scales, key=lambda scale: error(x, QParams(scale, torch.tensor(0)), of))
    assert float(weight_params(x, of, "w").scale) == pytest.approx(float(best), rel=1e-6)


def test_the_exponent_decides_how_far_the_tails_are_cut() -> None:
    x = noise(4000, 4) ** 3
    for search in ("mse", "mse_shrink"):
        ends = [float(weight_params(x, spec(4, search=search, exponent=e), "w").scale) for e in (1.0, 2.0, 2.4, 4.0)]
        assert ends == sorted(ends) and ends[0] < ends[-1]


def test_average_is_the_mean_of_the_batches_extremes() -> None:
    batches = [noise(50, 1), noise(20, 2, 1.0), noise(70, 3, -0.5)]
    observer = RangeObserver(spec(8, search="average"), "node x")
    for batch in batches:
        observer(batch)
    low = sum(float(batch.min()) for batch in batches) / 3
    high = sum(float(batch.max()) for batch in batches) / 3
    params = observer.params()
    assert float(params.scale) == pytest.approx((high - low) / 255, rel=1e-6)
    assert int(params.zero_point) == round(-low / ((high - low) / 255))
    assert float(params.scale) < float(observed(torch.cat(batches), spec(8, search="minmax")).scale)


def test_average_of_a_weight_is_min_max() -> None:
    weight = noise(60).reshape(3, 20)
    average, extremes = (weight_params(weight, spec(4, axis=0, search=s), "w") for s in ("average", "minmax"))
    assert torch.equal(average.scale, extremes.scale) and torch.equal(average.zero_point, extremes.zero_point)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999])
def test_percentile_of_a_weight_is_exact_in_every_row(share: float) -> None:
    weight = torch.stack([noise(1000, 1), noise(1000, 2, 2.0), noise(1000, 3).abs()])
    params = weight_params(weight, spec(8, axis=0, search="percentile", percentile=share), "w")
    for channel, row in enumerate(weight):
        clip = row.abs().sort().values[math.ceil(share * 1000 - 1e-6) - 1]
        low, high = max(min(row.min(), torch.tensor(0.0)), -clip), min(row.max(), clip)
        assert float(params.scale[channel]) == pytest.approx(float(high - low) / 255, rel=1e-6)
    whole = weight_params(weight, spec(8, search="percentile", percentile=share), "w")
    assert float(whole.scale) >= float(params.scale.min())


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_percentile_of_an_activation_is_exact_to_one_bin(shift: float, share: float) -> None:
    x = noise(20000, 6, shift)
    params = observed(x, spec(8, search="percentile", percentile=share), parts=7)
    clip = float(x.abs().sort().values[math.ceil(share * 20000 - 1e-6) - 1])
    bin_width = float(x.abs().max()) / observers.BINS
    width = min(float(x.max()), clip) + min(-min(float(x.min()), 0.0), clip)
    assert abs(float(params.scale) * 255 - width) <= 2 * bin_width


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_percentile_of_everything_is_min_max(shift: float) -> None:
    x = noise(500, 2, shift)
    for symmetric in (False, True):
        grid = {"symmetric": symmetric, "signed": symmetric}
        share, extremes = spec(8, search="percentile", percentile=1.0, **grid), spec(8, search="minmax", **grid)
        weights = weight_params(x, share, "w"), weight_params(x, extremes, "w")
        for found, expected in ((observed(x, share, 4), observed(x, extremes, 4)), weights):
            assert torch.equal(found.scale, expected.scale) and torch.equal(found.zero_point, expected.zero_point)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
@pytest.mark.parametrize("search", ["mse", "mse_shrink"])
@pytest.mark.parametrize("kind", ["8", "4", "symmetric"])
def test_ranked_search_finds_what_the_exhaustive_one_finds(
    kind: str, search: str, exponent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"search": search, "exponent": exponent}
    of = spec(8, symmetric=True, signed=True, **parameters) if kind == "symmetric" else spec(int(kind), **parameters)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, generator=generator) * torch.rand(3000, generator=generator)
    monkeypatch.setattr(range_search, "EXACT_LIMIT", 0)
    ranked = observed(x, of), weight_params(x, of, "w")
    monkeypatch.setattr(range_search, "EXACT_LIMIT", 2**60)
    best = error(x, weight_params(x, of, "w"), of)
    assert all(error(x, params, of) <= best * 1.002 for params in ranked)
