"""Range searches: methods_reconstruction T1 and T2, each search against its formula, and bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from calib import observers
from calib.observers import RangeObserver, params_of, weight_params
from pipeline.errors import CalibrationError
from pipeline.grid import (
    EMPTY_SCALE,
    RANGE_PARAMETER,
    Grid,
    QParams,
    QuantSpec,
    RangeSearch,
    along,
    dequantize,
    quantize,
)

SEARCHES = list(RANGE_PARAMETER)


def spec(bits: int, *, symmetric: bool = False, signed: bool = False, axis: int | None = None,
         search: str = "mse", **parameter: float) -> QuantSpec:
    return QuantSpec(Grid(bits, signed=signed), symmetric, axis, RangeSearch(search, **parameter))


def passes(x: Tensor, of: QuantSpec, parts: int = 1) -> RangeObserver:
    observer = RangeObserver(of, "node x")
    for part in x.chunk(parts):
        observer(part)
    if observer.needs_second_pass:
        observer.start_second_pass()
        for part in x.chunk(parts):
            observer(part)
    return observer


def observed(x: Tensor, of: QuantSpec, parts: int = 1) -> QParams:
    return passes(x, of, parts).params()


def fake(x: Tensor, params: QParams, of: QuantSpec) -> tuple[Tensor, Tensor]:
    scale, zero_point = (along(p.to(x.dtype), of.axis, x.dim()) for p in (params.scale, params.zero_point))
    codes = quantize(x, scale, zero_point, of.grid)
    return codes, dequantize(codes, scale, zero_point)


def error(x: Tensor, params: QParams, of: QuantSpec) -> float:
    return float((fake(x, params, of)[1] - x).abs().pow(of.range.exponent).mean())


def score(x: Tensor, scale: float, zero_point: int, bits: int, exponent: float) -> float:
    """Mean error of one candidate on the grid 0 ... 2^bits - 1, in float64."""
    codes = (torch.round(x.double() / scale) + zero_point).clamp(0, 2**bits - 1)
    return float((scale * (codes - zero_point) - x.double()).abs().pow(exponent).mean())


def literal_mse(x: Tensor, bits: int, sign: str, exponent: float = 2.4) -> tuple[float, int]:
    """Section 1.2.1 as it is written, one candidate at a time: scale and zero point of an asymmetric quantizer."""
    steps = 2**bits - 1
    low, high = float(x.min()), float(x.max())
    width = max(high, 0.0) - min(low, 0.0) if sign == "both" else max(abs(low), high)
    points = {"pos": [0], "neg": [steps], "both": list(range(steps + 1))}[sign]
    best = (1e10, 0.0, 0)
    for i in range(1, 101):
        for zero_point in points:
            found = score(x, width * i / 100 / steps, zero_point, bits, exponent)
            best = (found, width * i / 100 / steps, zero_point) if found < best[0] else best
    return best[1:]


def literal_shrink(x: Tensor, bits: int, exponent: float = 2.4) -> tuple[float, int]:
    """BRECQ's search with 0 forced into the range: 80 candidates, the full range first."""
    steps = 2**bits - 1
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    best = (1e10, 0.0, 0)
    for i in range(80):
        share = 1 - 0.01 * i
        scale = (high - low) * share / steps
        zero_point = round(-low / ((high - low) / steps))
        found = score(x, scale, zero_point, bits, exponent)
        best = (found, scale, zero_point) if found < best[0] else best
    return best[1:]


def same(params: QParams, literal: tuple[float, int]) -> bool:
    return float(params.scale) == pytest.approx(literal[0], rel=1e-6) and int(params.zero_point) == literal[1]


def noise(count: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) + shift


# --- T1: any search gives legal numbers ---


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("shift", [0.7, 9.0, -9.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_T1_codes_on_the_grid_zero_exact_and_idempotent(bits: int, shift: float, search: str) -> None:
    x = noise(300, bits, shift)
    for symmetric in (False, True):
        of = spec(bits, symmetric=symmetric, signed=symmetric, search=search)
        for params in (observed(x, of, parts=3), weight_params(x, of, "w")):
            codes, values = fake(x, params, of)
            assert codes.min() >= of.grid.qmin and codes.max() <= of.grid.qmax and torch.equal(codes, codes.round())
            grid = params.scale * (torch.arange(of.grid.qmin, of.grid.qmax + 1) - params.zero_point)
            assert bool(torch.isin(values, grid).all())
            again, values_again = fake(values, params, of)
            assert torch.equal(again, codes) and torch.equal(values_again, values)
            # The range contains 0 exactly: as a code of the grid, whose value is 0.
            assert of.grid.qmin <= int(params.zero_point) <= of.grid.qmax
            assert float(fake(torch.zeros(1), params, of)[1]) == 0.0


def scales_beside_a_zero_channel(search: str, symmetric: bool) -> list[float]:
    """Scales of a channel of zeros and of another; the first one's values stay 0."""
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]])
    of = spec(4, symmetric=symmetric, signed=symmetric, axis=0, search=search)
    params = weight_params(weight, of, "w")
    assert torch.equal(fake(weight, params, of)[1][0], torch.zeros(3))
    return params.scale.tolist()


@pytest.mark.parametrize("search", SEARCHES)
def test_T1_all_zero_channel_of_a_symmetric_weight(search: str) -> None:
    zero, other = scales_beside_a_zero_channel(search, symmetric=True)
    assert zero == pytest.approx(EMPTY_SCALE) and other > 0.05


@pytest.mark.parametrize("search", SEARCHES)
def test_T1_all_zero_channel(search: str) -> None:
    zero, other = scales_beside_a_zero_channel(search, symmetric=False)
    assert zero == pytest.approx(EMPTY_SCALE) and other > 0.05
    params = observed(torch.zeros(2, 5), spec(4, search=search))
    assert float(params.scale) == pytest.approx(EMPTY_SCALE)
    assert torch.equal(fake(torch.zeros(5), params, spec(4))[1], torch.zeros(5))


# --- T2: the MSE search ---


@pytest.mark.parametrize(("values", "zero_point"), [((0, 1, 2, 3), 0), ((-1, 0, 1, 2), 1)])
def test_T2_a_tensor_on_a_grid_is_found(values: tuple[int, ...], zero_point: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    for search in ("mse", "mse_shrink"):
        of = spec(2, search=search)
        for params in (observed(x, of), weight_params(x, of, "w")):
            assert float(params.scale) == pytest.approx(1.0) and int(params.zero_point) == zero_point
            assert error(x, params, of) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("search", ["mse", "mse_shrink"])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_T2_never_worse_than_the_full_range(bits: int, shift: float, search: str) -> None:
    x, of = noise(5000, 3, shift), spec(bits, search=search)
    full = observed(x, spec(bits, search="minmax"))
    assert error(x, observed(x, of, parts=5), of) <= error(x, full, of) * 1.001
    assert error(x, weight_params(x, of, "w"), of) <= error(x, full, of)


def test_T2_per_channel_is_each_channel_alone() -> None:
    weight = noise(6 * 40, 1).reshape(6, 40)
    for search in ("mse", "mse_shrink"):
        # abs: all channels, and so each alone, of the sign type `pos`.
        for rows in (weight, weight.abs(), -weight.abs()):
            together = weight_params(rows, spec(4, axis=0, search=search), "w")
            alone = [weight_params(channel, spec(4, search=search), "w") for channel in rows]
            assert torch.equal(together.scale, torch.stack([params.scale for params in alone]))
            assert torch.equal(together.zero_point, torch.stack([params.zero_point for params in alone]))


@pytest.mark.parametrize("exponent", [2.0, 2.4])
def test_T2_the_search_is_the_papers_loop_for_each_sign_type(exponent: float) -> None:
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


def test_T2_equal_scores_keep_the_earlier_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mirrored data scores zero points 1 and 2 alike.
    x = torch.tensor([-1.0, 1.0])
    for limit in (observers.EXACT_LIMIT, 0):
        monkeypatch.setattr(observers, "EXACT_LIMIT", limit)
        for params in (weight_params(x, spec(2), "w"), observed(x, spec(2))):
            assert same(params, literal_mse(x, 2, "both")) and int(params.zero_point) == 1


def test_T2_sign_type_is_the_whole_tensors() -> None:
    weight = torch.stack([torch.linspace(0.1, 1, 20), torch.linspace(-1, 1, 20)])
    params = weight_params(weight, spec(4, axis=0), "w")
    # With both signs somewhere every channel is searched in two dimensions; this one still needs no negative code.
    assert int(params.zero_point[0]) == 0 and int(params.zero_point[1]) > 0


def test_T2_sign_type_is_decided_once_for_all_batches() -> None:
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
def test_T2_a_symmetric_grid_gets_the_best_of_the_scales(search: str, signed: bool) -> None:
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
    monkeypatch.setattr(observers, "EXACT_LIMIT", 0)
    ranked = observed(x, of), weight_params(x, of, "w")
    monkeypatch.setattr(observers, "EXACT_LIMIT", 2**60)
    best = error(x, weight_params(x, of, "w"), of)
    assert all(error(x, params, of) <= best * 1.002 for params in ranked)


# --- streaming ---


@pytest.mark.parametrize("search", sorted(set(SEARCHES) - {"average"}))
def test_streaming_does_not_depend_on_the_batches(search: str) -> None:
    x = torch.rand(600, 7, generator=torch.Generator().manual_seed(2)) - 0.2
    of = spec(4, search=search, **({"percentile": 0.97} if search == "percentile" else {}))
    whole, parts = observed(x, of), observed(x, of, parts=9)
    assert torch.equal(whole.scale, parts.scale) and torch.equal(whole.zero_point, parts.zero_point)


@pytest.mark.parametrize("search", SEARCHES)
def test_memory_does_not_grow_with_the_number_of_images(search: str) -> None:
    def stored(batches: int) -> int:
        observer = passes(noise(64 * batches).reshape(batches, 64), spec(8, search=search), parts=batches)
        tensors = [value for value in vars(observer).values() if isinstance(value, Tensor)]
        held = [v for v in vars(observer).values() if isinstance(v, list | tuple | dict | set)]
        assert tensors and not held
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    assert stored(50) == stored(1) <= 2 * 8 * observers.BINS + 64


def test_a_batch_in_pieces_is_one_batch_of_an_average_and_each_call_of_a_pass_its_own() -> None:
    """Two calls in each pass, as of a quantizer at two nodes; batches of 64 in pieces of 16, the last one short."""
    x, y = noise(150 * 6).reshape(150, 6), 3 * noise(150 * 6, seed=1).reshape(150, 6)
    of = spec(8, search="average")
    whole, pieces = RangeObserver(of, "node x"), RangeObserver(of, "node x", split=True)
    for observer, size in ((whole, 64), (pieces, 16)):
        for start in range(0, 150, size):
            rows = slice(start, min(start + size, 150))
            observer(x[rows])
            observer(y[rows])
            observer.went_on(rows.stop)
    assert torch.equal(whole.params().scale, pieces.params().scale)
    unsplit = RangeObserver(of, "node x")
    for part in (*x.split(16), *y.split(16)):
        unsplit(part)
    assert not torch.equal(unsplit.params().scale, pieces.params().scale)


def test_min_max_covers_the_extremes() -> None:
    params = observed(torch.tensor([-1.0, 3.0]), spec(8, search="minmax"))
    assert float(params.scale) == pytest.approx(4 / 255) and int(params.zero_point) == 64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_values_name_the_tensor(bad: float) -> None:
    with pytest.raises(CalibrationError, match="node x"):
        observed(torch.tensor([1.0, bad]), spec(4))
    with pytest.raises(CalibrationError, match="layer1.conv"):
        weight_params(torch.tensor([[1.0, bad]]), spec(4, axis=0), "layer1.conv")


def test_a_quantizer_that_saw_nothing_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="no data"):
        RangeObserver(spec(4), "node x").params()


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-40, 2.0**40, 2.0**100])
@pytest.mark.parametrize("search", ["minmax", "average", "percentile", "mse", "mse_shrink"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_tensor_in_other_units_gets_the_same_codes(search, symmetric, unit):
    """Units are exact powers of two: scales follow them exactly, whatever the exponent of the error does in float32."""
    x = torch.randn(4, 300, generator=torch.Generator().manual_seed(3))
    spec = QuantSpec(Grid(8, signed=symmetric), symmetric, None, RangeSearch(search, percentile=0.99))
    plain, other = params_of(x, spec, "x"), params_of(x * unit, spec, "x")
    assert torch.equal(other.scale, plain.scale * unit) and torch.equal(other.zero_point, plain.zero_point)
    rows = QuantSpec(spec.grid, symmetric, 0, spec.range)
    plain, other = weight_params(x, rows, "w"), weight_params(x * unit, rows, "w")
    assert torch.equal(other.scale, plain.scale * unit) and torch.equal(other.zero_point, plain.zero_point)


@pytest.mark.parametrize("value", [1e-40, 3e-36, 1.5e38])
def test_ranges_that_float32_has_no_steps_for_are_refused_by_name(value):
    with pytest.raises(CalibrationError, match="float32 holds no steps") as error:
        params_of(torch.tensor([0.0, value]), QuantSpec(Grid(8, signed=False), True), "node relu_q")
    assert error.value.where == "node relu_q" and "4.8e-35 to 8.5e+37" in error.value.allowed


def test_a_channel_that_is_nothing_beside_the_others_keeps_a_step_of_1e_8():
    weight = torch.tensor([[1.0, -0.5], [1e-30, 0.0], [0.0, 0.0]])
    scale = weight_params(weight, QuantSpec(Grid(8, signed=True), True, 0), "w").scale
    assert torch.equal(scale[1:], torch.tensor([EMPTY_SCALE, EMPTY_SCALE]))
    tiny = weight_params(weight * 1e-12, QuantSpec(Grid(8, signed=True), True, 0), "w").scale
    assert 0 < float(tiny[2]) == float(tiny[1]) < 1e-4 * float(tiny[0])


@pytest.mark.parametrize("search", ["percentile", "mse", "mse_shrink"])
def test_one_tensor_is_seen_as_often_as_its_search_needs(search):
    """Without the second pass it would be the range between the extremes."""
    x = torch.cat([torch.randn(5000, generator=torch.Generator().manual_seed(0)), torch.tensor([40.0])])
    of = spec(4, search=search, **({"percentile": 0.99} if search == "percentile" else {}))
    observer = RangeObserver(of, "x")
    observer(x)
    observer.start_second_pass()
    observer(x)
    found, twice, extremes = params_of(x, of, "x"), observer.params(), params_of(x, spec(4, search="minmax"), "x")
    assert torch.equal(found.scale, twice.scale) and float(found.scale) < 0.9 * float(extremes.scale)


def test_a_bin_stands_for_the_mean_of_what_fell_into_it():
    counts, sums = torch.tensor([[4.0, 0.0, 1.0]], dtype=torch.float64), torch.tensor([[2.0, 0.0, 2.5]]).double()
    means = observers._means(counts, sums, torch.tensor([0.0]).double(), torch.tensor([1.0]).double())
    assert means.tolist() == [[0.5, 1.5, 2.5]]
