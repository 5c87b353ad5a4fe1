"""Codebooks and nested bits in training: clips, gradients, and what a group's rounding costs (tests 25 to 27, 29)."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.training.level_coders import GroupError, MultibitCoder, NestedCoder
from isobit.calib.training.multibit import TABLES
from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.grid import QuantSpec
from isobit.pipeline.quant.nested import NestedGrid
from isobit.pipeline.quant.quantizer import Quantizer

WEIGHT = QuantSpec(CodebookGrid(), symmetric=True, axis=0)
ACTIVATION = QuantSpec(NestedGrid(), symmetric=True)


def multibit(bits: int = 4, channels: int = 3) -> MultibitCoder:
    return MultibitCoder(Quantizer(WEIGHT), channels, bits, "laplace")


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_clip_is_kappa_times_the_mean_magnitude(bits: int) -> None:
    """Test 26."""
    coder, weight = multibit(bits), torch.randn(3, 4, 3, 3)
    coder(weight)
    kappa = TABLES["laplace"][bits].kappa
    torch.testing.assert_close(coder.clip, kappa * weight.abs().flatten(1).mean(1))
    coder(2 * weight)
    torch.testing.assert_close(coder.clip, kappa * weight.abs().flatten(1).mean(1) * (0.99 + 0.01 * 2))
    coder.eval()
    before = coder.clip.clone()
    coder(5 * weight)
    assert torch.equal(coder.clip, before)


def test_the_clip_moves_with_the_bits() -> None:
    coder, weight = multibit(), torch.randn(3, 4, 3, 3)
    coder(weight)
    coder.take(torch.tensor([True, False, True]))
    assert coder.bits.tolist() == [3, 4, 3]
    kappas = torch.tensor([TABLES["laplace"][bits].kappa for bits in (3, 4, 3)])
    torch.testing.assert_close(coder.clip, kappas * weight.abs().flatten(1).mean(1))


def test_codes_are_what_was_trained() -> None:
    coder, weight = multibit(2), torch.randn(3, 4, 3, 3)
    value = coder(weight)
    params, codes = coder.codes(weight)
    torch.testing.assert_close(value, codes * params.scale.reshape(-1, 1, 1, 1))
    assert torch.equal(coder.scale, params.scale) and coder.channel_bits.tolist() == [2, 2, 2]
    assert codes.abs().unique().tolist() == [11, 49]


def nested(clip: float | None = 2.0, bits: int = 2, channels: int = 3) -> NestedCoder:
    return NestedCoder(channels, bits, clip)


def test_values_are_multiples_of_the_channels_step() -> None:
    coder = nested()
    coder.take(torch.tensor([False, True, False]))
    coder.take(torch.tensor([False, True, False]))
    x = torch.linspace(-1, 3, 60).reshape(1, 1, 60, 1).expand(1, 3, 60, 1)
    with torch.no_grad():
        value = coder(x)
    assert value[0, 0].unique().tolist() == pytest.approx([0.0, 2 / 3, 4 / 3, 2.0], abs=1e-6)
    assert value[0, 1].unique().tolist() == [0.0]
    quantizer = Quantizer(ACTIVATION)
    coder.settle(quantizer)
    torch.testing.assert_close(quantizer.dequantize(quantizer.quantize(x)), value)
    assert quantizer.channel_bits.tolist() == [2, 0, 2]


def test_gradients_are_the_papers() -> None:
    """Tests 25 and 27."""
    coder = nested()
    x = torch.tensor([-1.0, 0.5, 1.2, 3.0]).reshape(1, 1, 4, 1).repeat(1, 3, 1, 1).requires_grad_()
    value = coder(x)
    value[0, 0].sum().backward()
    assert x.grad[0, 0].flatten().tolist() == [0.0, 1.0, 1.0, 0.0]
    expected = sum(float(value[0, 0, i].detach()) / 2.0 - float(x[0, 0, i].detach()) / 2.0 for i in (1, 2)) + 1.0
    assert float(coder.clip.grad) == pytest.approx(expected, abs=1e-5)


def test_a_clip_without_a_value_starts_from_the_data() -> None:
    coder, x = nested(None, 4), torch.rand(4, 3, 8, 8) * 5
    with torch.no_grad():
        coder(x)
    assert 4.0 < float(coder.clip.detach()) < 5.5 and bool(coder.started)
    start = float(coder.clip.detach())
    with torch.no_grad():
        coder(x * 10)
    assert float(coder.clip.detach()) == start


def test_the_error_of_a_group_is_its_first_order_change_of_the_loss() -> None:
    error = GroupError(2, axis=1)
    error.watching = True
    exact = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    for _ in range(2):
        rounded = torch.tensor([[0.5, 2.0], [3.0, 4.0]], requires_grad=True)
        error.watch(exact, rounded)
        (rounded * torch.tensor([[2.0, 1.0], [1.0, -3.0]])).sum().backward()
    assert error.total.tolist() == pytest.approx([2 * 0.5, 2 * 1.5])
    error.watching = False
    rounded = torch.zeros(2, 2, requires_grad=True)
    error.watch(exact, rounded)
    rounded.sum().backward()
    assert error.total.tolist() == pytest.approx([1.0, 3.0])


def test_the_error_predicts_what_a_bit_less_costs() -> None:
    """Test 29: it goes with the measured change of the loss when a group is given back its exact values."""
    torch.manual_seed(0)
    weight = (torch.randn(40, 10) * torch.linspace(0.2, 3.0, 40)[:, None]).requires_grad_()
    x, target = torch.randn(64, 10), torch.randn(64, 40)
    coder = MultibitCoder(Quantizer(WEIGHT), 40, 2, "laplace")
    coder.error.watching = True

    def loss(value: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.huber_loss(x @ value.T, target)

    loss(coder(weight)).backward()
    with torch.no_grad():
        rounded = coder(weight)
        changes = []
        for group in range(40):
            value = rounded.clone()
            value[group] = weight[group]
            changes.append(abs(float(loss(value) - loss(rounded))))
    found = torch.corrcoef(torch.stack([coder.error.total, torch.tensor(changes, dtype=torch.float64)]))[0, 1]
    assert float(found) > 0.5
