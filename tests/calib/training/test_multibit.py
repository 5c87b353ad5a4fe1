"""Codebooks of DMBQ: published tables, their optimality, their integers, and weights rounded to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isobit.calib.training.multibit import (
    TABLES,
    VARIANCE,
    Codebook,
    MultibitWeights,
    best_codebook,
    distortion,
    integer_codebook,
    positive_levels,
)
from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.grid import QuantSpec
from isobit.pipeline.quant.quantizer import Quantizer

POSITIVE = {
    ("laplace", 2): [0.2246, 1], ("laplace", 3): [0.0886, 0.3128, 0.5986, 1],
    ("laplace", 4): [0.0408, 0.1326, 0.2350, 0.3366, 0.4284, 0.5308, 0.7042, 1],
    ("cifar", 2): [0.3, 1], ("cifar", 3): [1 / 15, 5 / 15, 9 / 15, 1],
    ("cifar", 4): [level / 25 for level in (1, 3, 5, 9, 11, 13, 17, 25)],
}  # fmt: skip
# kappa, alpha, distortion of the optimum (DMBQ).
OPTIMA = {
    ("laplace", 1): (1.000, [1.0], 0.50000), ("laplace", 2): (2.594, [0.6144, 0.3856], 0.17619),
    ("laplace", 3): (4.161, [0.4556, 0.3448, 0.1995], 0.05598),
    ("laplace", 4): (5.686, [0.3304, 0.2850, 0.2334, 0.1512], 0.01743),
    ("gauss", 1): (1.000, [1.0], 0.36338), ("gauss", 2): (1.893, [0.6499, 0.3501], 0.11748),
    ("gauss", 3): (2.742, [0.4518, 0.3420, 0.2062], 0.03527),
    ("gauss", 4): (3.371, [0.4195, 0.2635, 0.2069, 0.1100], 0.00989),
}  # fmt: skip


def error(levels: np.ndarray, samples: np.ndarray) -> float:
    """Mean squared error of the nearest of +-`levels`, as a share of the samples' variance."""
    magnitude = np.abs(samples)
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, magnitude)]
    return float(((magnitude - nearest) ** 2).mean() / (samples**2).mean())


@pytest.mark.parametrize("table", TABLES)
def test_every_codebook_has_2_to_the_K_levels_without_zero(table):
    for bits, book in enumerate(TABLES[table]):
        assert len(book.alpha) == bits
        if bits == 0:
            assert book.levels.tolist() == [0.0] and book.kappa == 0.5
            continue
        assert sum(book.alpha) == pytest.approx(1, abs=1e-9) and list(book.alpha) == sorted(book.alpha, reverse=True)
        assert len(np.unique(book.levels)) == 1 << (bits - 1) and book.levels[0] > 0
        assert book.levels[-1] == pytest.approx(1)


@pytest.mark.parametrize(("table", "bits"), POSITIVE)
def test_levels_are_the_published_ones(table, bits):
    assert np.allclose(TABLES[table][bits].levels, POSITIVE[table, bits], atol=1e-9)


@pytest.mark.parametrize(("density", "bits"), OPTIMA)
def test_the_search_finds_the_optimum_to_the_stated_digits(density, bits):
    kappa, alpha, least = OPTIMA[density, bits]
    found = best_codebook(density, bits)
    assert found.kappa == pytest.approx(kappa, abs=6e-4)
    assert np.allclose(found.alpha, alpha, atol=1.01e-4)
    assert distortion(found.kappa * found.levels, density) == pytest.approx(least, abs=6e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_tables_are_the_optima_of_their_densities(bits):
    gauss, laplace = TABLES["gauss"][bits], TABLES["laplace"][bits]
    assert distortion(gauss.kappa * gauss.levels, "gauss") == pytest.approx(OPTIMA["gauss", bits][2], abs=6e-6)
    published = {1: 0.50020, 2: 0.17624, 3: 0.05600, 4: 0.01752}[bits]
    assert distortion(laplace.kappa * laplace.levels, "laplace") == pytest.approx(published, abs=6e-6)


@pytest.mark.parametrize(
    ("bits", "expected", "uniform"), [(2, 0.1762, 0.1963), (3, 0.0560, 0.07175), (4, 0.0175, 0.02535)]
)
def test_distortion_on_laplace_samples(bits, expected, uniform):
    random = np.random.default_rng(0)
    laplace, gauss = random.laplace(size=1_000_000), random.normal(0, np.sqrt(VARIANCE["gauss"]), 1_000_000)
    book = TABLES["laplace"][bits]
    measured = error(book.kappa * book.levels, laplace)
    assert measured == pytest.approx(expected, rel=0.02)
    steps = (2 * np.arange(1 << (bits - 1)) + 1) / ((1 << bits) - 1)  # mid-rise, in units of its clip
    clips = np.linspace(1.5, 7, 100)
    best = {density: min(distortion(clip * steps, density) for clip in clips) for density in VARIANCE}
    assert best["laplace"] == pytest.approx(uniform, rel=0.003) and measured < 0.95 * best["laplace"]
    assert error(book.kappa * book.levels, gauss) > best["gauss"]


@pytest.mark.parametrize("density", VARIANCE)
def test_the_closed_form_is_the_distortion_of_samples(density):
    random = np.random.default_rng(1)
    samples = random.laplace(size=400_000) if density == "laplace" else random.normal(0, np.sqrt(np.pi / 2), 400_000)
    levels = np.array([0.3, 0.9, 2.0])
    assert error(levels, samples) == pytest.approx(distortion(levels, density), rel=0.01)


INTEGERS = [
    ("cifar", 1, 1, (1,), 0), ("cifar", 2, 10, (3, 10), 0), ("cifar", 3, 15, (1, 5, 9, 15), 0),
    ("cifar", 4, 25, (1, 3, 5, 9, 11, 13, 17, 25), 0), ("laplace", 1, 1, (1,), 0),
    ("laplace", 2, 49, (11, 49), 1.1e-4), ("laplace", 3, 112, (10, 35, 67, 112), 6.9e-4),
    ("laplace", 4, 98, (4, 13, 23, 33, 42, 52, 69, 98), 3.1e-4),
]  # fmt: skip


@pytest.mark.parametrize(("table", "bits", "divisor", "codes", "stated"), INTEGERS)
def test_integers_of_the_tables_and_their_errors(table, bits, divisor, codes, stated):
    found = integer_codebook(TABLES[table][bits].alpha)
    assert (found.divisor, found.codes) == (divisor, codes)
    assert found.error == pytest.approx(stated, abs=6e-6)


def test_integers_up_to_a_limit_are_the_best_of_those():
    alpha = TABLES["laplace"][4].alpha
    found, levels = integer_codebook(alpha, 64), positive_levels(np.asarray(alpha))
    assert max(found.codes) == found.divisor <= 64 and found.error < 5e-3
    assert all(np.abs(np.rint(levels * d) / d - levels).max() >= found.error for d in range(20, 65))
    assert integer_codebook(()).codes == (0,)
    with pytest.raises(ValueError, match="do not hold 8 levels"):
        integer_codebook(alpha, 7)


def weights_and_clip(channels: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weights = torch.randn(channels, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    bits = torch.arange(channels) % 5
    kappa = torch.tensor([book.kappa for book in TABLES["laplace"]])
    return weights, bits, kappa[bits] * weights.abs().mean((1, 2, 3))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("limit", [127, 64])
def test_weights_take_the_nearest_level_of_their_channel(table, limit):
    weights, bits, clip = weights_and_clip()
    codes, scale = MultibitWeights(bits, clip, table, limit).codes(weights)
    assert codes.dtype == torch.int32 and int(codes.abs().max()) <= limit
    for row, number, c, got, step in zip(weights, bits.tolist(), clip, codes, scale, strict=True):
        book = integer_codebook(TABLES[table][number].alpha, limit)
        levels = torch.tensor([sign * code for code in book.codes for sign in (-1, 1)])
        u = (row / (c + 1e-6)).clamp(-1, 1)
        distance = (u[..., None] - levels / book.divisor).abs()
        assert torch.allclose(distance.amin(-1), (u - got / book.divisor).abs(), atol=1e-6)
        assert float(step) == pytest.approx(float(c) / book.divisor, rel=1e-6)
        assert set(got.unique().tolist()) <= set(levels.tolist())
    assert not codes[bits == 0].any()


def test_the_gradient_is_straight_through_inside_the_clip_and_zero_outside():
    weights, bits, clip = weights_and_clip()
    weights = weights.requires_grad_()
    rounding = MultibitWeights(bits, clip)
    values = rounding(weights)
    codes, scale = rounding.codes(weights)
    assert torch.equal(values, scale.reshape(-1, 1, 1, 1) * codes)
    assert not values[bits == 0].any()
    values.backward(torch.full_like(values, 2.0))
    inside = weights.detach().abs() <= clip.reshape(-1, 1, 1, 1)
    assert torch.equal(weights.grad, 2.0 * inside) and not bool(inside.all())


def test_settling_makes_an_ordinary_int8_weight():
    weights, bits, clip = weights_and_clip()
    clip[0] = 0.0
    quantizer = Quantizer(QuantSpec(CodebookGrid(limit=64, average=2), True, 0))
    rounding = MultibitWeights(bits, clip, limit=quantizer.spec.grid.qmax)
    quantizer.attach(rounding)
    rounding.settle(quantizer, weights)
    assert quantizer.stand_in is None and quantizer.channel_bits.tolist() == bits.tolist()
    assert bool((quantizer.scale > 0).all()) and not quantizer.zero_point.any()
    assert torch.equal(quantizer.fake_quantize(weights), rounding(weights))


def test_a_linear_weight_and_single_precision_agree_with_double():
    weights, bits, clip = weights_and_clip()
    rounding = MultibitWeights(bits, clip)
    flat = rounding.codes(weights.flatten(1))[0]
    assert torch.equal(flat, rounding.codes(weights)[0].flatten(1))
    assert torch.equal(flat, rounding.codes(weights.flatten(1).double())[0])


def test_a_codebook_without_bits_is_zero():
    assert Codebook(0.5, ()).levels.tolist() == [0.0]
