"""What a step feeds a unit and asks of it: inputs, gradients against autograd, BRECQ's Fisher cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from isobit.calib.reconstruction.boundary import CachedValue
from isobit.calib.reconstruction.losses import full_fisher_loss, prediction_loss, reconstruction_loss
from isobit.calib.reconstruction.mixing import MaskSource
from isobit.calib.reconstruction.objectives import FullFisher, PredictionDifference, Reconstruction, fisher_weights
from isobit.calib.reconstruction.predictions import FloatPredictions, float_predictions
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.reconstruction.tail import Tail
from tests.examples.units import CPU, calibration, recipe, task_at

INDEX = torch.tensor([3, 0, 3, 17])
TEMPERATURE, WEIGHT = 2.0, 10.0
LOGITS = "linear"  # the node of the only prediction


def masks() -> MaskSource:
    return MaskSource(5, CPU)


def task_of(unit: int, temperature: float = TEMPERATURE) -> tuple[UnitTask, FloatPredictions]:
    """The unit, and the float network's predictions."""
    made = calibration(recipe("qdrop_w2a2"))
    return task_at(made, unit)[0], float_predictions(made, None, temperature)


def outputs_of(task: UnitTask, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(task.student(*inputs))


def stored(value: Tensor) -> CachedValue:
    kept = CachedValue(value.shape[0], CPU)
    kept.append(value)
    return kept


def test_inputs_are_the_prefix_or_a_mixture_of_both() -> None:
    task, _ = task_of(1)
    plain = Reconstruction(task, masks()).inputs(INDEX)
    assert torch.equal(plain[0], task.inputs[0].rows(INDEX))
    (mixed,) = Reconstruction(task, masks(), keep_prob=0.5).inputs(INDEX)
    quantized, teacher = task.inputs[0].rows(INDEX), task.teacher_inputs[0].rows(INDEX)
    assert bool(((mixed == quantized) | (mixed == teacher)).all())
    assert not torch.equal(mixed, quantized) and not torch.equal(mixed, teacher)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
@pytest.mark.parametrize("weighted", [False, True])
def test_reconstruction_gradients_are_autograds(exponent: float, weighted: bool) -> None:
    task, _ = task_of(2)
    weights = [stored(torch.rand(48, 8, 8, 8) + 1.0)] if weighted else None
    objective = Reconstruction(task, masks(), exponent=exponent, weights=weights)
    (output,) = outputs_of(task, objective.inputs(INDEX))
    leaf = output.clone().requires_grad_()
    target = task.targets[0].rows(INDEX)
    reconstruction_loss(leaf, target, exponent, None if weights is None else weights[0].rows(INDEX)).backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-5, atol=1e-7)
    descends_its_loss(objective, output)


def descends_its_loss(objective: Reconstruction, output: Tensor) -> None:
    """The stated value's own gradient is the closed form."""
    leaf = output.clone().requires_grad_()
    objective.loss([leaf], INDEX).backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-4, atol=1e-6)


def test_full_fisher_gradients_are_autograds() -> None:
    task, _ = task_of(2)
    weight = stored(torch.rand(48, 8, 8, 8) + 1.0)
    objective = FullFisher(task, masks(), weights=[weight])
    (output,) = outputs_of(task, objective.inputs(INDEX))
    leaf = output.clone().requires_grad_()
    full_fisher_loss(leaf, task.targets[0].rows(INDEX), weight.rows(INDEX)).backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-4, atol=1e-7)
    descends_its_loss(objective, output)


def tail_of(task: UnitTask) -> Tail:
    return task.make_tail("float32", [LOGITS])


def prediction(task: UnitTask, logits: FloatPredictions) -> PredictionDifference:
    return PredictionDifference(task, masks(), 0.5, tail_of(task), logits, WEIGHT)


def test_prediction_difference_runs_the_mixture_and_the_plain_prefix_together() -> None:
    task, logits = task_of(1)
    (both,) = prediction(task, logits).inputs(INDEX)
    quantized, teacher = task.inputs[0].rows(INDEX), task.teacher_inputs[0].rows(INDEX)
    assert torch.equal(both[4:], quantized)
    assert bool(((both[:4] == quantized) | (both[:4] == teacher)).all()) and not torch.equal(both[:4], quantized)


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_prediction_difference_gradients_are_autograds_of_both_terms(unit: int) -> None:
    task, logits = task_of(unit)
    objective = prediction(task, logits)
    (output,) = outputs_of(task, objective.inputs(INDEX))
    leaf = output.clone().requires_grad_()
    loss = reconstruction_loss(leaf[:4], task.targets[0].rows(INDEX)) + WEIGHT * prediction_loss(
        tail_of(task).predictions([leaf[4:]], INDEX)[LOGITS], logits.values[LOGITS][INDEX], TEMPERATURE
    )
    loss.backward()
    torch.testing.assert_close(objective.gradients([output], INDEX)[0], leaf.grad, rtol=1e-4, atol=1e-6)
    assert float(leaf.grad[4:].abs().max()) > 0.0
    assert float(objective.loss([output], INDEX)) == pytest.approx(float(loss.detach()), rel=1e-5)
    descends_its_loss(objective, output)


def test_fewer_images_may_go_through_the_tail() -> None:
    """The first of the batch; the gradient of what goes through is that of a batch of so many."""
    task, logits = task_of(1)
    few = PredictionDifference(task, masks(), 0.5, tail_of(task), logits, WEIGHT, images=2)
    (both,) = few.inputs(INDEX)
    assert both.shape[0] == 6 and torch.equal(both[4:], task.inputs[0].rows(INDEX[:2]))
    (output,) = outputs_of(task, [both])
    (found,) = few.gradients([output], INDEX)
    other = prediction(task, logits).gradients([torch.cat([output[:2], output[4:]])], INDEX[:2])[0]
    torch.testing.assert_close(found[4:], other[2:], rtol=1e-5, atol=1e-7)


def test_fisher_cache_is_one_plus_the_divergences_gradient_image_by_image() -> None:
    task, logits = task_of(1, temperature=1.0)
    tail = tail_of(task)
    (cache,) = fisher_weights(task, tail, logits)
    for image in (0, 30):
        index = torch.tensor([image])
        (output,) = outputs_of(task, [value.rows(index) for value in task.inputs])
        leaf = output.clone().requires_grad_()
        prediction_loss(tail.predictions([leaf], index)[LOGITS], logits.values[LOGITS][index], 1.0).backward()
        assert float(leaf.grad.abs().max()) > 0.0
        torch.testing.assert_close(cache.rows(index), leaf.grad.abs() + 1.0, rtol=1e-5, atol=1e-6)


def test_a_prediction_that_ignores_the_unit_gives_plain_errors() -> None:
    """G = 0: the cache is 1 everywhere, and the weighted gradients are the plain ones bit for bit."""
    made = calibration(recipe("qdrop_w2a2"))
    made.graph.get_parameter("head.weight").data.zero_()
    task, _ = task_at(made, 1)
    weights = fisher_weights(task, tail_of(task), float_predictions(made, None))
    assert bool((weights[0].rows(slice(0, task.count)) == 1.0).all())
    output = outputs_of(task, Reconstruction(task, masks()).inputs(INDEX))
    plain, weighted = (Reconstruction(task, masks(), weights=w).gradients(output, INDEX)[0] for w in (None, weights))
    assert torch.equal(plain, weighted) and bool(plain.any())


def test_the_networks_own_image_is_never_mixed() -> None:
    task, _ = task_of(0)
    assert task.teacher_inputs == (None,)
    (mixed,) = Reconstruction(task, masks(), keep_prob=0.5).inputs(INDEX)
    assert torch.equal(mixed, task.inputs[0].rows(INDEX))
    corrected = dataclasses.replace(task, teacher_inputs=task.float_inputs)  # as PD-Quant's correction leaves it
    (mixed,) = Reconstruction(corrected, masks(), keep_prob=0.0).inputs(INDEX)
    assert torch.equal(mixed, task.float_inputs[0].rows(INDEX))
