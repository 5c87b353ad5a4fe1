"""Soft rounding: start, saturation, regulariser, schedule, and the flat closed-form gradient against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from isobit.calib.ranges.observers import weight_params
from isobit.calib.roundings.soft import (
    Descent,
    SoftParameters,
    SoftRounding,
    beta_at,
    initial_alpha,
    rectified_sigmoid,
    regulariser,
)
from isobit.pipeline.quant.grid import Grid, QParams, QuantSpec, RangeSearch, along
from isobit.pipeline.quant.quantizer import Phase, Quantizer

STEPS, PARAMETERS = 10, SoftParameters()


def layer(shape: tuple[int, ...], bits: int, seed: int = 0, search: str = "mse") -> tuple[Quantizer, Tensor]:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    quantizer = Quantizer(QuantSpec(Grid(bits, signed=False), False, 0, RangeSearch(search)))
    quantizer.set_params(weight_params(weight, quantizer.spec, "w"))
    quantizer.phase = Phase.ON
    return quantizer, weight


def test_soft_weight_starts_as_the_clipped_float_weight() -> None:
    layers = [layer((5, 4, 3, 3), 4), layer((7, 20), 2, seed=1)]
    rounding = SoftRounding(layers, PARAMETERS, STEPS)
    rounding.attach()
    rounding.refresh()
    for quantizer, weight in layers:
        scale, zero_point = quantizer.aligned(weight)
        grid = quantizer.spec.grid
        clipped = weight.clamp((grid.qmin - zero_point) * scale, (grid.qmax - zero_point) * scale)
        assert torch.allclose(quantizer(weight), clipped, atol=2e-6)


def test_alpha_inverts_h() -> None:
    fraction = torch.linspace(0, 0.9999, 101)
    assert torch.allclose(rectified_sigmoid(initial_alpha(fraction)), fraction, atol=1e-5)


def test_saturation_and_middle() -> None:
    end = math.log(11.0)
    assert float(rectified_sigmoid(torch.tensor(end + 1e-3))) == 1.0
    assert float(rectified_sigmoid(torch.tensor(-end - 1e-3))) == 0.0
    assert float(rectified_sigmoid(torch.tensor(end - 1e-2))) < 1.0
    assert end == pytest.approx(2.39790, abs=5e-6)
    assert float(rectified_sigmoid(torch.tensor(0.0))) == pytest.approx(0.5)


def test_hardening_the_start_is_nearest_rounding() -> None:
    quantizer, weight = layer((6, 4, 3, 3), 4)
    nearest = quantizer.quantize(weight)
    rounding = SoftRounding([(quantizer, weight)], PARAMETERS, STEPS)
    assert rounding.flipped() == 0.0
    rounding.harden()
    assert torch.equal(quantizer.codes, nearest.to(torch.int32))
    assert quantizer.stand_in is None


def test_a_tie_goes_up_where_nearest_goes_to_even() -> None:
    """The hard mask at the start is f >= 0.5; round-half-to-even agrees except at a tie above an even code."""
    quantizer = Quantizer(QuantSpec(Grid(4, signed=False), False, 0))
    quantizer.set_params(QParams(torch.ones(1), torch.zeros(1, dtype=torch.int32)))
    weight = torch.tensor([[0.5, 1.5, 2.5, 2.49, 2.51, 4.0]])
    nearest = quantizer.quantize(weight)
    SoftRounding([(quantizer, weight)], PARAMETERS, STEPS).harden()
    assert nearest.tolist() == [[0.0, 2.0, 2.0, 2.0, 3.0, 4.0]]
    assert quantizer.codes.tolist() == [[1, 2, 3, 2, 3, 4]]


BETAS = {  # step of 20,000 -> linear, cosine
    3999: (None, None), 4000: (20.0, 20.0), 4500: (19.4375, 19.957), 6000: (17.75, 19.315), 8000: (15.5, 17.364),
    10000: (13.25, 14.444), 12000: (11.0, 11.0), 14000: (8.75, 7.556), 16000: (6.5, 4.636), 18000: (4.25, 2.685),
    19000: (3.125, 2.173), 20000: (2.0, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("step", BETAS)
@pytest.mark.parametrize("descent", ["linear", "cosine"])
def test_beta_table(step: int, descent: Descent) -> None:
    expected = BETAS[step][descent == "cosine"]
    found = beta_at(step, 20_000, 0.2, 20.0, 2.0, descent)
    assert found == (None if expected is None else pytest.approx(expected, abs=6e-4))


def test_regulariser_at_turn_on() -> None:
    h = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    assert float(regulariser(h, 20.0)) / h.numel() == pytest.approx(1 - 1 / 21, abs=2e-3)


def test_regulariser_is_zero_only_for_decided_weights() -> None:
    assert float(regulariser(torch.tensor([0.0, 1.0, 1.0]), 7.0)) == 0.0
    for h in (0.001, 0.3, 0.5, 0.999):
        for beta in (2.0, 7.0, 20.0):
            assert float(regulariser(torch.tensor([0.0, h, 1.0]), beta)) > 0.0


def test_regulariser_gradient_pushes_away_from_one_half() -> None:
    quantizer = Quantizer(QuantSpec(Grid(4, signed=False), False, 0))
    weight = torch.tensor([[0.5, 0.3, 0.7, 15.0]])
    quantizer.spec = QuantSpec(Grid(4, signed=False), True, 0)
    quantizer.set_params(weight_params(torch.tensor([[15.0]]), quantizer.spec, "w"))
    rounding = SoftRounding([(quantizer, weight)], PARAMETERS, STEPS)
    rounding.refresh()
    rounding.differentiate(1.0, torch.tensor([3.0]))
    middle, below, above, _ = rounding.alpha.grad.tolist()
    # Adam descends: a positive gradient lowers alpha.
    assert middle == pytest.approx(0.0, abs=1e-5) and below > 0.01 and above < -0.01


@pytest.mark.parametrize("beta", [None, 2.0, 9.5])
def test_gradient_is_autograds(beta: float | None) -> None:
    layers = [layer((5, 4, 3, 3), 3), layer((7, 20), 2, seed=1)]
    rounding = SoftRounding(layers, PARAMETERS, STEPS)
    rounding.attach()
    rounding.refresh()
    pulls = [torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)) for _, weight in layers]
    for (quantizer, weight), pull in zip(layers, pulls, strict=True):
        (quantizer(weight) * pull).sum().backward()
    rounding.differentiate(0.3, None if beta is None else torch.tensor([beta]))

    begin = 0
    for (quantizer, weight), pull in zip(layers, pulls, strict=True):
        scale, zero_point = quantizer.aligned(weight)
        ratio = weight / scale
        alpha = initial_alpha(ratio - ratio.floor()).requires_grad_()
        h = rectified_sigmoid(alpha)
        grid = quantizer.spec.grid
        soft = torch.clamp(ratio.floor() + h, grid.qmin - zero_point, grid.qmax - zero_point) * scale
        loss = (soft * pull).sum() + (0.3 * regulariser(h, beta) if beta else 0.0)
        loss.backward()
        expected = (alpha.grad.permute(0, 2, 3, 1) if alpha.dim() == 4 else alpha.grad).reshape(-1)
        found = rounding.alpha.grad[begin : begin + expected.numel()]
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)
        begin += expected.numel()


def test_no_weight_moves_by_more_than_one_step() -> None:
    quantizer, weight = layer((6, 4, 3, 3), 4)
    rounding = SoftRounding([(quantizer, weight)], PARAMETERS, STEPS)
    with torch.no_grad():
        rounding.alpha.copy_(torch.randn(rounding.alpha.shape, generator=torch.Generator().manual_seed(5)))
    assert rounding.flipped() > 0.1
    rounding.harden()
    zero_point = along(quantizer.zero_point, 0, 4)
    floor = torch.floor(weight / quantizer.aligned(weight)[0])
    moved = quantizer.codes - zero_point - floor
    unclipped = (floor >= -zero_point) & (floor + 1 <= quantizer.spec.grid.qmax - zero_point)
    assert bool(((moved >= 0) & (moved <= 1))[unclipped].all())
    hardened = quantizer(weight)
    decided, quantizer.codes = quantizer.codes, None
    assert torch.equal(quantizer.quantize(hardened).to(torch.int32), decided)


def test_undecided_counts_h_strictly_inside() -> None:
    rounding = SoftRounding([layer((1, 4), 4)], PARAMETERS, STEPS)
    with torch.no_grad():
        rounding.alpha.copy_(initial_alpha(torch.tensor([0.005, 0.5, 0.02, 0.995])))
    assert rounding.undecided() == 0.5


@pytest.mark.parametrize(("alpha", "passes"), [(None, True), (-6.0, False), (6.0, False)])
def test_a_gradient_reaches_a_weight_on_its_grid_and_none_that_is_saturated(alpha: float | None, passes: bool) -> None:
    """A fraction of 0 starts at the very end of h, where rounding of float32 must not cut it off."""
    quantizer = Quantizer(QuantSpec(Grid(4, signed=False), True, 0))
    quantizer.set_params(QParams(torch.ones(1), torch.zeros(1, dtype=torch.int32)))
    weight = torch.arange(1.0, 9.0).reshape(1, 8)
    rounding = SoftRounding([(quantizer, weight)], PARAMETERS, STEPS)
    if alpha is not None:
        with torch.no_grad():
            rounding.alpha.fill_(alpha)
    quantizer.phase = Phase.ON
    rounding.attach()
    rounding.refresh()
    quantizer(weight).sum().backward()
    rounding.differentiate(0.0, None)
    sigmoid = 1 / 12  # where 1.2 * sigmoid - 0.1 is 0
    slope = 1.2 * sigmoid * (1 - sigmoid)
    wanted = torch.full((8,), slope if passes else 0.0)
    assert torch.allclose(rounding.alpha.grad, wanted, rtol=1e-4)
