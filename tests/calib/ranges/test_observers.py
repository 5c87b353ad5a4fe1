"""Range searches: legal numbers from any of them, each search against its formula, and bounded memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isobit.calib.ranges import observers
from isobit.calib.ranges.observers import RangeObserver, params_of, weight_params
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.quant.grid import (
    EMPTY_SCALE,
    Grid,
    QuantSpec,
    RangeSearch,
)
from tests.examples.range_searches import (
    SEARCHES,
    fake,
    noise,
    observed,
    passes,
    spec,
)

# --- any search gives legal numbers ---


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("shift", [0.7, 9.0, -9.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_on_the_grid_zero_exact_and_idempotent(bits: int, shift: float, search: str) -> None:
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
def test_all_zero_channel_of_a_symmetric_weight(search: str) -> None:
    zero, other = scales_beside_a_zero_channel(search, symmetric=True)
    assert zero == pytest.approx(EMPTY_SCALE) and other > 0.05


@pytest.mark.parametrize("search", SEARCHES)
def test_all_zero_channel(search: str) -> None:
    zero, other = scales_beside_a_zero_channel(search, symmetric=False)
    assert zero == pytest.approx(EMPTY_SCALE) and other > 0.05
    params = observed(torch.zeros(2, 5), spec(4, search=search))
    assert float(params.scale) == pytest.approx(EMPTY_SCALE)
    assert torch.equal(fake(torch.zeros(5), params, spec(4))[1], torch.zeros(5))


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
        bins = {} if observer._bins is None else vars(observer._bins)
        tensors = [value for value in (*vars(observer).values(), *bins.values()) if isinstance(value, Tensor)]
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
