"""Range search: methods_reconstruction T1 and T2, and the ranked search against the exhaustive one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calib import observers
from calib.observers import RangeObserver, weight_params
from pipeline.errors import CalibrationError
from pipeline.grid import Grid, QParams, QuantSpec, along, dequantize, quantize


def spec(bits: int, *, symmetric: bool = False, signed: bool = False, axis: int | None = None,
         search: str = "mse") -> QuantSpec:
    return QuantSpec(Grid(bits, signed=signed), symmetric, axis, search)


def observed(x: Tensor, of: QuantSpec, parts: int = 1) -> QParams:
    observer = RangeObserver(of, "node x")
    for part in x.chunk(parts):
        observer(part)
    if observer.needs_second_pass:
        observer.start_second_pass()
        for part in x.chunk(parts):
            observer(part)
    return observer.params()


def fake(x: Tensor, params: QParams, of: QuantSpec) -> tuple[Tensor, Tensor]:
    scale, zero_point = (along(p.to(x.dtype), of.axis, x.dim()) for p in (params.scale, params.zero_point))
    codes = quantize(x, scale, zero_point, of.grid)
    return codes, dequantize(codes, scale, zero_point)


def error(x: Tensor, params: QParams, of: QuantSpec) -> float:
    return float((fake(x, params, of)[1] - x).abs().pow(2.4).mean())


@pytest.mark.parametrize("search", ["minmax", "mse"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_t1_codes_on_the_grid_zero_exact_and_idempotent(bits: int, search: str) -> None:
    x = torch.randn(300, generator=torch.Generator().manual_seed(bits)) + 0.7
    of = spec(bits, search=search)
    params = observed(x, of)
    codes, values = fake(x, params, of)
    assert codes.min() >= of.grid.qmin and codes.max() <= of.grid.qmax
    assert torch.equal(fake(values, params, of)[0], codes)
    assert float(fake(torch.zeros(1), params, of)[1]) == 0.0


@pytest.mark.parametrize("search", ["minmax", "mse"])
def test_t1_all_zero_channel(search: str) -> None:
    of = spec(4, axis=0, search=search)
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]])
    params = weight_params(weight, of, "w")
    assert float(params.scale[0]) == pytest.approx(1e-8)
    assert torch.equal(fake(weight, params, of)[1][0], torch.zeros(3))


@pytest.mark.parametrize(("values", "zero_point"), [((0, 1, 2, 3), 0), ((-1, 0, 1, 2), 1)])
def test_t2_a_tensor_on_a_grid_is_found(values: tuple[int, ...], zero_point: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    for params in (observed(x, spec(2)), weight_params(x, spec(2), "w")):
        assert float(params.scale) == pytest.approx(1.0) and int(params.zero_point) == zero_point
        assert error(x, params, spec(2)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_t2_never_worse_than_the_full_range(bits: int, shift: float) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(3)) + shift
    full = observed(x, spec(bits, search="minmax"))
    assert error(x, observed(x, spec(bits), parts=5), spec(bits)) <= error(x, full, spec(bits)) * 1.001


def test_t2_per_channel_is_each_channel_alone() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    together = weight_params(weight, spec(4, axis=0), "w")
    alone = [weight_params(channel, spec(4), "w") for channel in weight]
    assert torch.allclose(together.scale, torch.stack([params.scale for params in alone]))
    assert torch.equal(together.zero_point, torch.stack([params.zero_point for params in alone]))


def test_t2_sign_type_is_the_whole_tensors() -> None:
    weight = torch.stack([torch.linspace(0.1, 1, 20), torch.linspace(-1, 1, 20)])
    params = weight_params(weight, spec(4, axis=0), "w")
    # With both signs somewhere every channel is searched in two dimensions; this one still needs no negative code.
    assert int(params.zero_point[0]) == 0 and int(params.zero_point[1]) > 0


@pytest.mark.parametrize("of", [spec(8), spec(4), spec(8, symmetric=True, signed=True)], ids=["8", "4", "symmetric"])
def test_ranked_search_finds_what_the_exhaustive_one_finds(of: QuantSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, generator=generator) * torch.rand(3000, generator=generator)
    monkeypatch.setattr(observers, "EXACT_LIMIT", 0)
    ranked = observed(x, of), weight_params(x, of, "w")
    monkeypatch.setattr(observers, "EXACT_LIMIT", 2**60)
    best = error(x, weight_params(x, of, "w"), of)
    assert all(error(x, params, of) <= best * 1.002 for params in ranked)


def test_streaming_does_not_depend_on_the_batches() -> None:
    x = torch.rand(600, 7, generator=torch.Generator().manual_seed(2))
    whole, parts = observed(x, spec(4)), observed(x, spec(4), parts=9)
    assert torch.equal(whole.scale, parts.scale) and torch.equal(whole.zero_point, parts.zero_point)


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
