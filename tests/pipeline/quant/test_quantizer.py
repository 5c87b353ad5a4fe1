"""The quantizer's phases, its gradients, stored codes, and the bias that has no numbers of its own."""

from __future__ import annotations

import copy

import pytest
import torch

from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.grid import SCALE_FLOOR, Grid, QParams, QuantSpec
from isobit.pipeline.quant.nested import NESTED_CODES, NestedGrid
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer, bias_scale, on_steps, stand_in_for
from tests.examples.tiny import keeping

ACTIVATION = QuantSpec(Grid(4, signed=False), symmetric=False)
WEIGHT = QuantSpec(Grid(4, signed=True), symmetric=True, axis=0)


def activation(scale=0.5, zero_point=3, phase=Phase.ON):
    quantizer = Quantizer(ACTIVATION)
    quantizer.set_params(QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)))
    quantizer.phase = phase
    return quantizer


def weight(scales=(0.5, 0.25), phase=Phase.ON):
    quantizer = Quantizer(WEIGHT)
    quantizer.set_params(QParams(torch.tensor(scales), torch.zeros(len(scales), dtype=torch.int32)))
    quantizer.phase = phase
    return quantizer


def test_off_and_observe_pass_the_tensor_itself():
    x, seen = torch.randn(3, 2), []
    quantizer = Quantizer(ACTIVATION)
    assert quantizer(x) is x
    quantizer.phase = Phase.OBSERVE
    assert quantizer(x) is x
    quantizer.attach(keeping(seen))
    assert quantizer(x) is x and seen[0] is x


def test_on_is_fake_quantization_of_torch():
    x = torch.randn(100) * 5
    assert torch.equal(activation()(x), torch.fake_quantize_per_tensor_affine(x, 0.5, 3, 0, 15))
    w = torch.randn(2, 30) * 3
    expected = torch.fake_quantize_per_channel_affine(w, torch.tensor([0.5, 0.25]), torch.zeros(2).int(), 0, -8, 7)
    assert torch.equal(weight()(w), expected)


def test_codes_are_inside_the_grid_and_dequantize_to_the_value():
    quantizer, x = activation(), torch.randn(100) * 10
    codes = quantizer.quantize(x)
    assert codes.min() == 0 and codes.max() == 15 and torch.equal(codes, codes.round())
    assert torch.equal(quantizer.dequantize(codes), quantizer(x))


def test_gradients_of_value_and_scale_are_straight_through():
    quantizer = activation()
    quantizer.scale = quantizer.scale.requires_grad_()
    x = torch.tensor([0.6, 100.0, -100.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [1, 0, 0]
    # round(x / s) - x / s inside; qmax - zero point above; qmin - zero point below
    assert float(quantizer.scale.grad) == pytest.approx((1 - 1.2) + 12 - 3)


def test_stored_codes_answer_instead_of_the_tensor():
    quantizer = weight()
    codes = torch.tensor([[1, -8], [7, 0]])
    quantizer.harden(codes)
    assert quantizer.codes.dtype == torch.int32
    assert quantizer(torch.randn(2, 2)).tolist() == [[0.5, -4.0], [1.75, 0.0]]
    assert torch.equal(quantizer.quantize(torch.randn(2, 2)), codes.float())


def test_hardening_drops_learned_rounding():
    quantizer = weight()
    quantizer.attach(lambda w: w + 1)
    assert torch.equal(quantizer(torch.zeros(2, 2)), torch.ones(2, 2))
    quantizer.harden(torch.zeros(2, 2))
    assert quantizer.stand_in is None
    assert torch.equal(quantizer(torch.ones(2, 2)), torch.zeros(2, 2))


@pytest.mark.parametrize("code", [-9, 8])
def test_codes_outside_the_grid_are_refused(code):
    with pytest.raises(ValueError, match="leave the grid"):
        weight().harden(torch.tensor([[code, 0], [0, 0]]))


def test_a_stand_in_answers_in_every_phase_but_off():
    quantizer, x = activation(), torch.tensor(2.0)
    quantizer.attach(torch.neg)
    for phase, value in ((Phase.OFF, 2), (Phase.OBSERVE, -2), (Phase.ON, -2)):
        quantizer.phase = phase
        assert quantizer(x) == value
    quantizer.detach(torch.neg)
    assert quantizer(x) == quantizer.fake_quantize(x)


def test_a_second_stand_in_is_refused_and_detaching_another_one_does_nothing():
    quantizer = activation()
    quantizer.attach(torch.neg)
    with pytest.raises(RuntimeError, match="one stand-in at a time"):
        quantizer.attach(torch.abs)
    quantizer.detach(torch.abs)
    assert quantizer.stand_in is torch.neg


def test_stand_ins_are_attached_all_or_none_and_go_after_an_exception():
    first, taken = activation(), activation()
    taken.attach(torch.neg)
    with pytest.raises(RuntimeError), stand_in_for([(first, torch.abs), (taken, torch.abs)]):
        raise AssertionError("unreachable")
    assert first.stand_in is None and taken.stand_in is torch.neg
    with pytest.raises(KeyboardInterrupt), stand_in_for([(first, torch.abs)]):
        assert first.stand_in is torch.abs
        raise KeyboardInterrupt
    assert first.stand_in is None


def test_other_numbers_forget_the_codes():
    quantizer = weight()
    quantizer.harden(torch.zeros(2, 2))
    quantizer.set_params(quantizer.params)
    assert quantizer.codes is None


def test_numbers_are_checked_against_the_spec():
    with pytest.raises(ValueError, match="zero points"):
        weight().set_params(QParams(torch.ones(2), torch.ones(2, dtype=torch.int32)))


def test_state_travels_and_text_tells_the_grid():
    quantizer = weight()
    quantizer.harden(torch.ones(2, 2))
    assert set(quantizer.state_dict()) == {"scale", "zero_point", "codes"}
    assert str(quantizer) == "Quantizer(4 bits [-8, 7], per channel, on)"


@pytest.fixture
def bias():
    return BiasQuantizer(activation(scale=0.5), weight((0.5, 0.25)))


def test_bias_scale_is_the_product_and_follows_its_parents(bias):
    assert bias.scale.tolist() == [0.25, 0.125]
    bias.parents[0].set_params(QParams(torch.tensor(2.0), torch.tensor(0, dtype=torch.int32)))
    assert bias.scale.tolist() == [1.0, 0.5]
    assert not bias.state_dict()


def test_bias_passes_while_off_and_rounds_to_its_scale_when_frozen(bias):
    values = torch.tensor([0.3, -0.2])
    assert bias(values) is values
    assert bias.quantize(values).tolist() == [1, -2]
    bias.codes, bias.phase = bias.quantize(values).int(), Phase.FROZEN
    assert bias(torch.zeros(2)).tolist() == [0.25, -0.25]


def test_bias_rounds_while_on_in_its_own_type(bias):
    bias.phase = Phase.ON
    assert bias(torch.tensor([0.3, -0.2])).tolist() == [0.25, -0.25]
    assert bias(torch.tensor([0.3, -0.2], dtype=torch.float64)).dtype == torch.float64


def test_copies_keep_the_tie_inside_the_copy(bias):
    holder = torch.nn.ModuleList([*bias.parents, bias])
    twin = copy.deepcopy(holder)
    assert twin[2].parents[0] is twin[0] and twin[2].parents[1] is twin[1]
    assert twin[0] is not holder[0]


def nested(bits, scale=0.01):
    quantizer = Quantizer(QuantSpec(NestedGrid(), True))
    quantizer.set_params(QParams(torch.tensor(scale), torch.tensor(0, dtype=torch.int32)))
    quantizer.set_channel_bits(torch.tensor(bits))
    quantizer.phase = Phase.ON
    return quantizer


def test_a_nested_quantizer_has_the_levels_of_its_channels_bits():
    x = torch.linspace(-0.2, 1.3, 3001).expand(1, 5, -1)
    values = nested([0, 1, 2, 3, 4])(x)
    clip = 0.01 * NESTED_CODES
    assert [len(row.unique()) for row in values[0]] == [1, 2, 4, 8, 16]
    assert not values[0, 0].any()
    for bits in range(1, 5):
        steps = (1 << bits) - 1
        assert torch.allclose(values[0, bits].unique(), clip * torch.arange(steps + 1) / steps)


def test_nested_gradients_are_straight_through_the_clamp_and_the_clip_s():
    x = torch.tensor([-0.5, 0.1, 0.52, 0.9, 3.0]).reshape(1, 1, -1).requires_grad_()
    quantizer = nested([2])
    quantizer.scale = torch.nn.Parameter(quantizer.scale)
    value = quantizer(x)
    with torch.no_grad():
        assert torch.equal(quantizer(x), value)
    value.sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 0]
    clip = 0.01 * NESTED_CODES
    inside = (value - x)[0, 0, 1:4].sum() / clip  # per unit of the clip: (Q - x) / a inside, 1 above, 0 below
    assert torch.allclose(quantizer.scale.grad / NESTED_CODES, inside + 1, atol=1e-5)


@pytest.mark.parametrize("bits", [[5], [-1], [[2]]])
def test_bits_per_channel_that_do_not_exist(bits):
    with pytest.raises(ValueError, match="0 to 4"):
        nested([2]).set_channel_bits(torch.tensor(bits))


def test_uniform_levels_have_no_bits_per_channel():
    with pytest.raises(ValueError, match="not uniform"):
        Quantizer(QuantSpec(Grid(4, False), True)).set_channel_bits(torch.tensor([2]))


def test_a_codebook_s_quantizer_has_bits_and_no_multiples():
    quantizer = Quantizer(QuantSpec(CodebookGrid(average=2), True, 0))
    quantizer.set_channel_bits(torch.tensor([0, 4]))
    assert quantizer.multiples is None and quantizer.channel_bits.tolist() == [0, 4]
    assert "2 bits multibit [-127, 127]" in repr(quantizer)


def test_a_bias_of_more_steps_than_a_float_counts_stays_as_it_is():
    """A dead channel before which nothing is large: the product of both scales is 0 in float32."""
    scale = bias_scale(torch.tensor(1e-30), torch.tensor([1e-30, 0.01]))
    assert scale[0] == SCALE_FLOOR and scale[1] == pytest.approx(1e-32)
    bias = torch.tensor([5.0, 1.04e-32])
    assert torch.equal(on_steps(bias, scale), torch.stack([bias[0], scale[1]]))


def test_decided_codes_are_given_and_others_asked_for(bias):
    quantizer = Quantizer(WEIGHT)
    assert not quantizer.calibrated
    for open_one in (quantizer, bias):
        with pytest.raises(RuntimeError, match="no codes are decided yet"):
            open_one.decided  # noqa: B018 - the answer is the error
    quantizer.set_params(QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32)))
    quantizer.harden(torch.tensor([[1.0], [-2.0]]))
    assert quantizer.calibrated and quantizer.decided.tolist() == [[1], [-2]]
