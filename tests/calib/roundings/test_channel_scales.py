"""Learned weight scales: gradient in closed form, biases that follow, what hardening stores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isobit.calib.ranges.observers import weight_params
from isobit.calib.roundings.channel_scales import LEAST, ChannelScales
from isobit.calib.roundings.soft import SoftParameters, SoftRounding, rectified_sigmoid
from isobit.pipeline.quant.grid import Grid, QuantSpec, RangeSearch, along
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer

STEPS, PARAMETERS = 10, SoftParameters(weight_scale_rate=0.01)


def layer(shape: tuple[int, ...], axis: int | None = 0, bits: int = 2, seed: int = 0) -> tuple[Quantizer, Tensor]:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    quantizer = Quantizer(QuantSpec(Grid(bits, signed=False), False, axis, RangeSearch("mse")))
    quantizer.set_params(weight_params(weight, quantizer.spec, "w"))
    quantizer.phase = Phase.ON
    return quantizer, weight


def layers() -> list[tuple[Quantizer, Tensor]]:
    return [layer((5, 4, 3, 3)), layer((7, 20), seed=1), layer((3, 6), axis=None, seed=2)]


def one_step(rounding: SoftRounding, weights: list[tuple[Quantizer, Tensor]], pulls: list[Tensor], step: int) -> None:
    rounding.refresh()
    torch.autograd.backward([quantizer(weight) for quantizer, weight in weights], pulls)
    rounding.collect(torch.tensor([step]), False, lambda: torch.zeros(()))


def pulls_of(weights: list[tuple[Quantizer, Tensor]]) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn_like(weight) for _, weight in weights]


def test_the_gradient_is_autograds_of_the_formula() -> None:
    weights = layers()
    pulls = pulls_of(weights)
    rounding = SoftRounding(weights, PARAMETERS, STEPS)
    rounding.attach()
    expected = []
    for (quantizer, weight), pull in zip(weights, pulls, strict=True):
        scale, zero_point = quantizer.params.scale.clone(), quantizer.zero_point
        factor = torch.ones_like(scale, requires_grad=True)
        grid, axis, rank = quantizer.spec.grid, quantizer.spec.axis, weight.dim()
        ratio = weight / along(scale, axis, rank)
        soft = torch.floor(ratio) + (ratio - torch.floor(ratio))
        low, high = (along((end - zero_point).float(), axis, rank) for end in (grid.qmin, grid.qmax))
        value = along(scale * factor, axis, rank) * torch.minimum(torch.maximum(soft, low), high)
        value.backward(pull)
        expected.append(factor.grad.reshape(-1))
    one_step(rounding, weights, pulls, 0)
    assert torch.allclose(rounding.scales.gradient, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_alphas_gradient_uses_the_present_scale() -> None:
    weights = [layer((4, 8))]
    rounding = SoftRounding(weights, PARAMETERS, STEPS)
    rounding.attach()
    pulls = pulls_of(weights)
    one_step(rounding, weights, pulls, 0)
    rounding.refresh()
    (quantizer, weight), alpha = weights[0], rounding.alpha.detach().clone().requires_grad_()
    scale, zero_point = quantizer.aligned(weight)
    ratio = rounding.ratio.view(4, 8)
    codes = torch.floor(ratio) + rectified_sigmoid(alpha).view(4, 8)
    grid = quantizer.spec.grid
    (scale * torch.clamp(codes, grid.qmin - zero_point, grid.qmax - zero_point)).backward(pulls[0])
    torch.autograd.backward([quantizer(weight)], pulls)
    rounding.differentiate(0.0, None)
    assert torch.allclose(rounding.alpha.grad, alpha.grad, atol=1e-6)


def test_biases_see_the_scale_of_every_step() -> None:
    weights = [layer((5, 4))]
    source, _ = layer((1,), axis=None, seed=4)
    bias = BiasQuantizer(source, weights[0][0])
    before = bias.scale.clone()
    rounding = SoftRounding(weights, PARAMETERS, STEPS)
    rounding.attach()
    one_step(rounding, weights, pulls_of(weights), 0)
    rounding.settle()
    assert torch.allclose((bias.scale / before).log().abs(), torch.full((5,), 0.01), atol=2e-4)


def test_hardening_stores_the_learned_scale_and_that_of_the_decision() -> None:
    weights = layers()
    before = [quantizer.scale.clone() for quantizer, _ in weights]
    rounding = SoftRounding(weights, PARAMETERS, STEPS)
    rounding.attach()
    for step in range(STEPS):
        one_step(rounding, weights, pulls_of(weights), step)
    rounding.settle()
    expected = rounding.decided()
    codes = rounding.harden()
    values = torch.cat([(each - along(q.zero_point, q.spec.axis, each.dim())).permute(
        *((0, 2, 3, 1) if each.dim() == 4 else range(each.dim()))).reshape(-1)
        for each, (q, _) in zip(codes, weights, strict=True)])
    assert torch.equal(values.float(), expected)
    for (quantizer, weight), scale in zip(weights, before, strict=True):
        assert torch.equal(quantizer.rounded_at, scale) and quantizer.scale.shape == scale.shape
        assert not torch.allclose(quantizer.scale, scale, rtol=1e-3)
        assert torch.equal(quantizer(weight), quantizer.dequantize(quantizer.decided.float()))


def test_detaching_gives_the_scales_back() -> None:
    weights = layers()
    before = [quantizer.scale.clone() for quantizer, _ in weights]
    rounding = SoftRounding(weights, PARAMETERS, STEPS)
    rounding.attach()
    one_step(rounding, weights, pulls_of(weights), 0)
    rounding.refresh()
    assert not torch.equal(weights[0][0].scale, before[0])
    rounding.detach()
    assert all(torch.equal(quantizer.scale, scale) for (quantizer, _), scale in zip(weights, before, strict=True))
    assert all(quantizer.rounded_at is None for quantizer, _ in weights)


def test_a_scale_stays_above_a_tenth_and_one_that_is_lost_stays_as_it_was() -> None:
    quantizer, weight = layer((2, 8))
    before = quantizer.scale.clone()
    scales = ChannelScales([(quantizer, weight.numel())], 5.0, STEPS)
    gradient = torch.ones(16)
    gradient[8] = float("nan")
    scales.collect(torch.tensor([0]), gradient, torch.ones(16))
    scales.store()
    assert quantizer.scale.tolist() == pytest.approx([LEAST * float(before[0]), float(before[1])])


def test_without_a_rate_nothing_is_stored() -> None:
    quantizer, weight = layer((2, 8))
    before = quantizer.scale
    rounding = SoftRounding([(quantizer, weight)], SoftParameters(), STEPS)
    rounding.harden()
    assert quantizer.scale is before and quantizer.rounded_at is None and rounding.scales is None


def test_the_rate_follows_the_number_of_steps() -> None:
    assert SoftParameters(weight_scale_rate=1e-4).scaled(40.0).weight_scale_rate == pytest.approx(4e-3)
