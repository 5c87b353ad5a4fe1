"""Nearest rounding: the quantizer's own codes, in place from the first step."""

from __future__ import annotations

import torch

from isobit.calib.roundings import RoundingParameters
from isobit.calib.roundings.nearest import NearestRounding, round_to_nearest
from tests.calib.roundings.test_roundings import layers


def test_the_codes_are_the_quantizers_own_and_are_there_while_attached() -> None:
    weights = layers()
    own = [quantizer.quantize(weight).int() for quantizer, weight in weights]
    rounding = NearestRounding(weights, RoundingParameters(), 1)
    rounding.attach()
    assert all(torch.equal(quantizer.codes, codes) for (quantizer, _), codes in zip(weights, own, strict=True))
    assert all(torch.equal(*pair) for pair in zip(rounding.harden(), own, strict=True))


def test_codes_that_were_decided_otherwise_are_forgotten() -> None:
    ((quantizer, weight), *_) = weights = layers()
    nearest = quantizer.quantize(weight).int()
    quantizer.harden(torch.zeros_like(nearest))
    assert torch.equal(round_to_nearest(weights)[0], nearest)


def test_a_unit_without_weights_has_nothing_to_round() -> None:
    rounding = NearestRounding((), RoundingParameters(), 1)
    rounding.attach()
    rounding.detach()
    assert rounding.harden() == () and rounding.flipped() == 0.0
