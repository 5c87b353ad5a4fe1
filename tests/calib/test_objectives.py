"""What a step feeds a unit and asks of it: inputs, gradients against autograd, BRECQ's Fisher cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from calib.boundary import Stored
from calib.losses import full_fisher_loss, prediction_loss, reconstruction_loss
from calib.mixing import MaskSource
from calib.objectives import FullFisher, PredictionDifference, Reconstruction, fisher_weights
from calib.reconstruct import UnitWork
from tests.calib.nets import CPU, calibration, recipe, work_at

INDEX = torch.tensor([3, 0, 3, 17])
TEMPERATURE, WEIGHT = 2.0, 10.0


def masks() -> MaskSource:
    return MaskSource(5, CPU)


def work_of(unit: int) -> tuple[UnitWork, Tensor]:
    """The unit, and the float network's logits."""
    made = calibration(recipe("qdrop_w2a2"))
    return work_at(made, unit)[0], made.teacher_logits


def outputs_of(work: UnitWork, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(work.student(*inputs))


def stored(value: Tensor) -> Stored:
    kept = Stored(value.shape[0], CPU)
    kept.append(value)
    return kept


def test_inputs_are_the_prefix_or_a_mixture_of_both() -> None:
    work, _ = work_of(1)
    plain = Reconstruction(work, masks()).inputs(INDEX)
    assert torch.equal(plain[0], work.inputs[0].rows(INDEX))
    (mixed,) = Reconstruction(work, masks(), keep_prob=0.5).inputs(INDEX)
    quantized, teacher = work.inputs[0].rows(INDEX), work.teacher_inputs[0].rows(INDEX)
    assert bool(((mixed == quantized) | (mixed == teacher)).all())
    assert not torch.equal(mixed, quantized) and not torch.equal(mixed, teacher)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
@pytest.mark.parametrize("weighted", [False, True])
def test_reconstruction_gradients_are_autograds(exponent: float, weighted: bool) -> None:
    work, _ = work_of(2)
    weights = [stored(torch.rand(48, 8, 8, 8) + 1.0)] if weighted else None
    objective = Reconstruction(work, masks(), exponent=exponent, weights=weights)
    (output,) = outputs_of(work, objective.inputs(INDEX))
    leaf = output.clone().requires_grad_()
    target = work.targets[0].rows(INDEX)
    reconstruction_loss(leaf, target, exponent, None if weights is None else weights[0].rows(INDEX)).backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-5, atol=1e-7)


def test_full_fisher_gradients_are_autograds() -> None:
    work, _ = work_of(2)
    weight = stored(torch.rand(48, 8, 8, 8) + 1.0)
    objective = FullFisher(work, masks(), weights=[weight])
    (output,) = outputs_of(work, objective.inputs(INDEX))
    leaf = output.clone().requires_grad_()
    full_fisher_loss(leaf, work.targets[0].rows(INDEX), weight.rows(INDEX)).backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-4, atol=1e-7)


def prediction(work: UnitWork, logits: Tensor) -> PredictionDifference:
    return PredictionDifference(work, masks(), 0.5, work.make_tail("float32"), logits, TEMPERATURE, WEIGHT)


def test_prediction_difference_runs_the_mixture_and_the_plain_prefix_together() -> None:
    work, logits = work_of(1)
    (both,) = prediction(work, logits).inputs(INDEX)
    quantized, teacher = work.inputs[0].rows(INDEX), work.teacher_inputs[0].rows(INDEX)
    assert torch.equal(both[4:], quantized)
    assert bool(((both[:4] == quantized) | (both[:4] == teacher)).all()) and not torch.equal(both[:4], quantized)


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_prediction_difference_gradients_are_autograds_of_both_terms(unit: int) -> None:
    work, logits = work_of(unit)
    objective = prediction(work, logits)
    (output,) = outputs_of(work, objective.inputs(INDEX))
    leaf = output.clone().requires_grad_()
    loss = reconstruction_loss(leaf[:4], work.targets[0].rows(INDEX)) + WEIGHT * prediction_loss(
        work.make_tail("float32").logits([leaf[4:]], INDEX), logits[INDEX], TEMPERATURE
    )
    loss.backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-4, atol=1e-6)
    assert float(leaf.grad[4:].abs().max()) > 0.0


def test_fisher_cache_is_one_plus_the_divergences_gradient_image_by_image() -> None:
    work, logits = work_of(1)
    tail = work.make_tail("float32")
    (cache,) = fisher_weights(work, tail, logits)
    for image in (0, 30):
        index = torch.tensor([image])
        (output,) = outputs_of(work, [value.rows(index) for value in work.inputs])
        leaf = output.clone().requires_grad_()
        prediction_loss(tail.logits([leaf], index), logits[index], 1.0).backward()
        assert float(leaf.grad.abs().max()) > 0.0
        torch.testing.assert_close(cache.rows(index), leaf.grad.abs() + 1.0, rtol=1e-5, atol=1e-6)


def test_T20_a_prediction_that_ignores_the_unit_gives_plain_errors() -> None:
    """G = 0: the cache is 1 everywhere, and the weighted gradients are the plain ones bit for bit."""
    made = calibration(recipe("qdrop_w2a2"))
    made.graph.get_parameter("head.weight").data.zero_()
    work, _ = work_at(made, 1)
    weights = fisher_weights(work, work.make_tail("float32"), made.teacher_logits)
    assert bool((weights[0].rows(slice(0, work.count)) == 1.0).all())
    output = outputs_of(work, Reconstruction(work, masks()).inputs(INDEX))
    plain, weighted = (Reconstruction(work, masks(), weights=w).gradients(output, INDEX)[0] for w in (None, weights))
    assert torch.equal(plain, weighted) and bool(plain.any())


def test_the_networks_own_image_is_never_mixed() -> None:
    work, _ = work_of(0)
    assert work.teacher_inputs == (None,)
    (mixed,) = Reconstruction(work, masks(), keep_prob=0.5).inputs(INDEX)
    assert torch.equal(mixed, work.inputs[0].rows(INDEX))
    corrected = dataclasses.replace(work, teacher_inputs=work.float_inputs)  # as PD-Quant's correction leaves it
    (mixed,) = Reconstruction(corrected, masks(), keep_prob=0.0).inputs(INDEX)
    assert torch.equal(mixed, work.float_inputs[0].rows(INDEX))
