"""The mixture of float and quantized elements, forward and backward against plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from isobit.calib.reconstruction.mixing import Annealed, MaskSource, Mixing, flat, mix_inputs
from isobit.pipeline.quant.grid import Grid, QParams, QuantSpec
from isobit.pipeline.quant.quantizer import Phase, Quantizer

CPU = torch.device("cpu")


def quantizer(scale: float = 0.3, zero_point: int = 3, bits: int = 4) -> Quantizer:
    made = Quantizer(QuantSpec(Grid(bits, signed=False), False))
    made.set_params(QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)))
    made.phase = Phase.ON
    return made


def activations(channels_last: bool = False) -> Tensor:
    x = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize("keep", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_are_the_formulas(channels_last: bool, keep: float, factor: bool) -> None:
    node = quantizer()
    x = activations(channels_last).requires_grad_()
    pull = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    scale = node.scale.clone().requires_grad_()
    mixed = Mixing(node, scale, keep, MaskSource(7, CPU), factor)(x)
    mixed.backward(pull)

    # The same masks, and the quantizer's own differentiable expression.
    plain = x.detach().clone().requires_grad_()
    node.scale = node.scale.clone().requires_grad_()
    value = node.fake_quantize(plain)
    mask = MaskSource(7, CPU).draw(plain, keep).bool() if keep < 1 else torch.ones_like(plain, dtype=torch.bool)
    torch.where(mask, value, plain).backward(pull)
    expected = node.scale.grad / (math.sqrt(x.numel() * 15) if factor else 1.0)
    assert torch.allclose(mixed, torch.where(mask, value, plain), atol=1e-6)
    assert torch.allclose(x.grad, plain.grad)
    assert torch.allclose(scale.grad, expected, rtol=1e-5)


@pytest.mark.parametrize("keep", [0.5, 1.0])
@pytest.mark.parametrize(("scale", "zero_point", "bits"), [(0.3, 3, 4), (0.7, 0, 2), (0.05, 128, 8), (2.0, 7, 4)])
def test_scale_gradient_is_the_formula_in_float64(scale: float, zero_point: int, bits: int, keep: float) -> None:
    """Section 1.1: round(u) - u inside, k - z outside, nothing where dropped; relative to the terms' sizes."""
    node, x = quantizer(scale, zero_point, bits), activations()
    pull = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    leaf = node.scale.clone().requires_grad_()
    Mixing(node, leaf, keep, MaskSource(7, CPU), False)(x).backward(pull)
    mask = MaskSource(7, CPU).draw(x, keep).double() if keep < 1 else torch.ones_like(x).double()
    ratio = (x / node.scale).double()
    codes = ratio.round() + zero_point
    inside = (codes >= 0) & (codes <= 2**bits - 1)
    formula = torch.where(inside, ratio.round() - ratio, codes.clamp(0, 2**bits - 1) - zero_point)
    terms = formula * mask * pull.double()
    spread = float(terms.square().sum().sqrt())
    assert float(leaf.grad) == pytest.approx(float(terms.sum()), rel=1e-5, abs=1e-5 * spread)


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_with_the_factor_exactly_that_times(keep: float) -> None:
    """1 / sqrt(elements of the whole mini-batch * highest code)."""
    node, x = quantizer(), activations()
    gradients = []
    for factor in (False, True):
        leaf = node.scale.clone().requires_grad_()
        Mixing(node, leaf, keep, MaskSource(7, CPU), factor)(x).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(gradients[1], gradients[0] * (1.0 / math.sqrt(x.numel() * 15)))


def test_keep_one_is_bit_identical_to_the_quantizer() -> None:
    node, x = quantizer(), activations()
    assert torch.equal(Mixing(node, node.scale, 1.0, MaskSource(0, CPU), True)(x), node(x))
    quantized, teacher = torch.randn(2, 4, 6)
    assert mix_inputs(quantized, teacher, 1.0, MaskSource(0, CPU)) is quantized


def test_keep_zero_is_the_float_value_and_no_gradient() -> None:
    node, x = quantizer(), activations().requires_grad_()
    scale = node.scale.clone().requires_grad_()
    out = Mixing(node, scale, 0.0, MaskSource(0, CPU), True)(x)
    out.sum().backward()
    assert torch.equal(out, x) and scale.grad is None
    quantized, teacher = torch.randn(2, 4, 6)
    assert mix_inputs(quantized, teacher, 0.0, MaskSource(0, CPU)) is teacher


@pytest.mark.parametrize("keep", [0.5, 0.25, 0.9])
def test_share_of_kept_elements(keep: float) -> None:
    like = torch.empty(64, 10, 9, 9)
    mask = MaskSource(3, CPU).draw(like, keep)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    spread = 6 * math.sqrt(keep * (1 - keep) / mask.numel())  # 3 / sqrt(N) for one half
    assert float(mask.mean()) == pytest.approx(keep, abs=spread)
    # Element-wise: neither whole samples nor whole channels are dropped together.
    assert float(mask.mean(dim=(1, 2, 3)).std()) < 0.1 and float(mask.mean(dim=(0, 2, 3)).std()) < 0.1


def test_masks_are_fresh_and_seeded() -> None:
    like = torch.empty(32, 100)
    source, again = MaskSource(3, CPU), MaskSource(3, CPU)
    first, second = source.draw(like, 0.5), source.draw(like, 0.5)
    assert not torch.equal(first, second)
    assert abs(float((first == second).float().mean()) - 0.5) < 0.05
    assert torch.equal(first, again.draw(like, 0.5))


@pytest.mark.parametrize("like", [
    torch.zeros(49, 8, 32).transpose(0, 1), torch.zeros(8, 49, 16, 10).permute(0, 2, 1, 3), torch.zeros(8, 64)[:, ::2],
])
@pytest.mark.parametrize("keep", [0.5, 0.3])
def test_a_mask_is_drawn_whole_however_the_value_lies(like: Tensor, keep: float) -> None:
    """A batch-first GRU gives steps before samples in memory; what is not written is whatever lay there."""
    mask = MaskSource(3, CPU).draw(like, keep)
    assert torch.equal(mask, MaskSource(3, CPU).draw(like.contiguous(), keep)) and mask.shape == like.shape
    assert abs(float(mask.mean()) - keep) < 0.05


def test_mixed_input_is_on_average_the_mean_of_both() -> None:
    quantized, teacher = torch.randn(2, 40, 50, generator=torch.Generator().manual_seed(0))
    source = MaskSource(1, CPU)
    draws = [mix_inputs(quantized, teacher, 0.5, source) for _ in range(400)]
    assert all(bool(((d == quantized) | (d == teacher)).all()) for d in draws[:5])
    gap = (torch.stack(draws).mean(0) - (quantized + teacher) / 2) / (quantized - teacher).abs().clamp(min=1e-3)
    assert float(gap.abs().mean()) < 0.05


def test_flat_is_memory_order_without_a_copy() -> None:
    x = activations(channels_last=True)
    assert flat(x).data_ptr() == x.data_ptr() and torch.equal(flat(x), x.permute(0, 2, 3, 1).reshape(-1))


def test_the_quantizers_own_gradient_is_the_formula() -> None:
    node, x = quantizer(), activations().requires_grad_()
    node.scale = node.scale.clone().requires_grad_()
    node(x).sum().backward()
    ratio = x.detach() / node.scale.detach()
    codes = ratio.round() + 3
    inside = (codes >= 0) & (codes <= 15)
    by_scale = torch.where(inside, ratio.round() - ratio, codes.clamp(0, 15) - 3)
    assert torch.equal(x.grad, inside.float())
    assert float(node.scale.grad) == pytest.approx(float(by_scale.double().sum()), rel=1e-5)


def test_processes_that_share_a_batch_damp_by_the_whole() -> None:
    """The mean of the shares' gradients is the gradient of the whole batch."""
    node, x, found = quantizer(), activations(), []
    for part, world in ((x, 1), (x[:2], 2), (x[2:], 2)):
        leaf = node.scale.clone().requires_grad_()
        output = Mixing(node, leaf, 1.0, MaskSource(7, CPU), True, world)(part)
        (output.square().sum() / part.shape[0]).backward()
        found.append(float(leaf.grad))
    assert (found[1] + found[2]) / 2 == pytest.approx(found[0], rel=1e-5)


def test_annealed_probabilities_rise_in_a_line_and_stay() -> None:
    keep, found = Annealed(0.5, 0.5, 20, CPU), []
    now = keep.now
    for step in range(20):
        keep.move(torch.tensor([step]))
        assert keep.now is now  # a recorded step reads this tensor
        found.append(float(keep.now))
    assert found == pytest.approx([min(1.0, 0.5 + 0.05 * step) for step in range(20)])


@pytest.mark.parametrize(("start", "share"), [(0.5, 0.0), (1.0, 0.5)])
def test_a_constant_probability_is_a_number(start: float, share: float) -> None:
    keep = Annealed(start, share, 20, CPU)
    keep.move(torch.tensor([3]))
    assert keep.now == start and isinstance(keep.now, float)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.5, 1.0])
def test_a_probability_on_the_device_does_what_the_number_does(keep: float) -> None:
    node, x, teacher = quantizer(), activations(), activations().flip(0)
    found = []
    for each in (keep, torch.tensor(keep)):
        leaf = node.scale.clone().requires_grad_()
        mixed = Mixing(node, leaf, each, MaskSource(7, CPU), False)(x)
        found.append((mixed, mix_inputs(x, teacher, each, MaskSource(7, CPU))))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
