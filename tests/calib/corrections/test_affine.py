"""Corrected scales and biases: least squares, codes kept, outputs nearer to the float network's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isobit.calib.context import Calibration
from isobit.calib.corrections.affine import FACTORS, _Sums, correct_affine
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.passes import legalize
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.stages import Calibrated
from tests.examples.units import calibration, net, recipe


def rounded(name: str = "mobile", bits: str = "minmax_w4a8", *edits: str) -> Calibration:
    made = calibration(recipe(bits, *edits), ranges=False, name=name)
    search_ranges(made)
    round_weights(made)
    return made


@torch.no_grad()
def error(made: Calibration, name: str) -> float:
    reference = calibration(recipe("minmax_w4a8"), ranges=False, name=name)
    return float((made.graph(made.images) - reference.graph(made.images)).square().mean())


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_the_map_is_the_least_squares_one(shared: bool, offset: bool) -> None:
    torch.manual_seed(0)
    y = torch.randn(500, 3, dtype=torch.float64) + 2.0
    f = torch.tensor([0.8, 1.1, 1.3]) * y + (torch.tensor([0.5, -1.0, 0.0]) if offset else 0.0)
    f += 0.1 * torch.randn(500, 3)
    sums = _Sums()
    for part in (slice(0, 100), slice(100, 500)):
        sums.add(y[part], f[part])
    factor, shift = sums.solve(shared, offset)
    factor, shift = factor.clone().requires_grad_(), shift.clone().requires_grad_()
    (factor * y + shift - f).square().mean(0).sum().backward()
    slopes = factor.grad.sum() if shared else factor.grad
    assert torch.allclose(slopes, torch.zeros_like(slopes), atol=1e-9)
    assert torch.allclose(shift.grad, torch.zeros(3, dtype=torch.float64), atol=1e-9) if offset else not shift.any()
    assert not shared or bool((factor == factor[0]).all())


def test_a_channel_that_says_nothing_or_the_opposite_is_held() -> None:
    y = torch.stack([torch.full((9,), 3.0), torch.arange(9.0)], 1)
    factor, shift = _Sums().add(y, torch.stack([y[:, 0] + 1.0, -y[:, 1]], 1)).solve(shared=False, offset=True)
    assert factor.tolist() == [1.0, FACTORS[0]] and float(shift[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["mobile", "residual"])
def test_outputs_come_nearer_and_codes_stay(name: str) -> None:
    plain, made = rounded(name), rounded(name)
    codes = {key: quantizer.decided.clone() for key, quantizer in made.weights().items()}
    scales = {key: quantizer.scale.clone() for key, quantizer in made.weights().items()}
    assert correct_affine(made) == len(codes)
    assert error(made, name) < 0.2 * error(plain, name)
    for key, quantizer in made.weights().items():
        assert torch.equal(quantizer.decided, codes[key]) and torch.equal(quantizer.rounded_at, scales[key])
        assert not torch.equal(quantizer.scale, scales[key])


def test_the_size_of_batches_changes_little() -> None:
    made = [rounded(), dataclasses.replace(rounded(), batch=24)]
    for each in made:
        correct_affine(each)
    pairs = zip(*(each.weights().values() for each in made), strict=True)
    assert all(torch.allclose(one.scale, other.scale, rtol=0.05) for one, other in pairs)


def test_a_weight_with_one_scale_gets_one_factor() -> None:
    plain = rounded("mobile", "minmax_w4a8", "weights.granularity=per_tensor")
    made = rounded("mobile", "minmax_w4a8", "weights.granularity=per_tensor")
    assert correct_affine(made) > 2 and error(made, "mobile") < error(plain, "mobile")
    assert {quantizer.scale.dim() for quantizer in made.weights().values()} == {0}


def test_without_a_bias_the_factor_alone_is_fitted() -> None:
    made = rounded()
    for node in made.graph.graph.nodes:
        if op_name(node) in ("conv2d", "linear"):
            rest = {key: value for key, value in node.kwargs.items() if key != "bias"}
            node.args, node.kwargs = (*node.args[:2], None, *node.args[3:]), rest
    made.graph.recompile()
    biases = {name: value.clone() for name, value in made.graph.named_parameters() if "bias" in name}
    assert correct_affine(made) == len(made.weights())
    assert all(torch.equal(value, biases[name]) for name, value in made.graph.named_parameters() if name in biases)


def test_the_frozen_reference_keeps_it() -> None:
    of = recipe("minmax_w4a8")
    made, (quantized, images) = rounded(), net(of, name="mobile")
    correct_affine(made)
    reference, _ = legalize(Calibrated(made.graph, quantized, (), made.findings))
    with torch.no_grad():
        assert torch.allclose(reference.graph(images), made.graph(images), atol=1e-4)
