"""The flat buffer: values, gradients and codes lie where their weights do, in channels-last order."""

from __future__ import annotations

import torch
from torch import Tensor

from isobit.calib.roundings.buffer import FlatRounding
from tests.calib.roundings.test_roundings import layers


class Given(FlatRounding):
    """Whatever codes it is told."""

    codes: Tensor

    def decided(self) -> Tensor:
        return self.codes


def test_values_and_gradients_pass_between_buffer_and_layers() -> None:
    (conv, weight), (linear, matrix) = weights = layers()
    rounding = Given(weights)
    rounding.values.copy_(rounding.ratio * rounding.scale)
    rounding.attach()
    assert torch.allclose(conv(weight), weight, atol=1e-6) and torch.allclose(linear(matrix), matrix, atol=1e-6)
    pulls = [torch.randn(w.shape, generator=torch.Generator().manual_seed(3)) for w in (weight, matrix)]
    ((conv(weight) * pulls[0]).sum() + (linear(matrix) * pulls[1]).sum()).backward()
    expected = torch.cat([pulls[0].permute(0, 2, 3, 1).reshape(-1), pulls[1].reshape(-1)])
    assert torch.equal(rounding.gradient, expected)


def test_convolution_weights_are_channels_last() -> None:
    (conv, weight), _ = weights = layers()
    rounding = Given(weights)
    rounding.attach()
    assert conv(weight).is_contiguous(memory_format=torch.channels_last) and conv(weight).shape == weight.shape


def test_codes_are_stored_with_the_zero_point_added() -> None:
    weights = layers()
    nearest = [quantizer.quantize(weight).int() for quantizer, weight in weights]
    rounding = Given(weights)
    rounding.codes = torch.clamp(torch.round(rounding.ratio), rounding.low, rounding.high)
    assert rounding.flipped() == 0.0
    assert all(torch.equal(*pair) for pair in zip(rounding.harden(), nearest, strict=True))
    rounding.codes = torch.where(rounding.codes < rounding.high, rounding.codes + 1, rounding.codes - 1)
    assert rounding.flipped() == 1.0
