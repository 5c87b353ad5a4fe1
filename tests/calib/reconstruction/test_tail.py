"""The float network after a unit: its predictions and gradients against autograd through the model itself."""

from __future__ import annotations

import torch
from torch import Tensor

from isobit.calib.reconstruction.objectives import PredictionDifference
from isobit.calib.reconstruction.predictions import FloatPredictions, float_predictions
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.reconstruction.tail import Tail
from isobit.calib.reconstruction.trainer import Settings, UnitTrainer
from isobit.calib.roundings import choose_rounding
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.tiny import model_and_images
from tests.examples.units import answer, calibration, detector_calibration, recipe, task_at

LOGITS = "linear"  # the node of the only prediction
INDEX = torch.tensor([3, 0, 3, 17])


def inner() -> tuple[UnitTask, Tensor]:
    """The unit over which the skip passes, and the value that skips: the stem's quantized output."""
    made = calibration(recipe("qdrop_w2a2"))
    task, boundary = task_at(made, 1)
    return task, boundary.student["relu_q"].rows(INDEX)


def after_inner(output: Tensor, skip: Tensor) -> Tensor:
    """What the model does after its layer `inner`, written down by hand."""
    model = model_and_images()[0]
    x = torch.relu(skip + model.outer(output))
    return model.head(x.mean(dim=(2, 3)))


def test_logits_are_the_rest_of_the_float_network_with_the_skip_from_the_quantized_prefix() -> None:
    task, skip = inner()
    output = answer(task)[INDEX]
    with torch.no_grad():
        expected = after_inner(output, skip)
        found = task.make_tail("float32", [LOGITS]).predictions([output], INDEX)[LOGITS]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_autograds() -> None:
    task, skip = inner()
    output = answer(task)[INDEX]
    pull = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    leaf = output.clone().requires_grad_()
    after_inner(leaf, skip).backward(pull)
    seen: list[Tensor] = []

    def by_answers(found: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(found[LOGITS])
        return {LOGITS: pull}

    (found,) = task.make_tail("float32", [LOGITS]).gradients([output], INDEX, by_answers)
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[0], after_inner(output, skip), rtol=1e-4, atol=1e-5)
    assert not seen[0].requires_grad


def test_the_classifiers_tail_is_the_identity() -> None:
    task, _ = task_at(calibration(), 3)
    tail = task.make_tail("float32", [LOGITS])
    output, pull = torch.randn(4, 5), torch.randn(4, 5)
    assert tail.predictions([output], INDEX)[LOGITS] is output
    assert torch.equal(tail.gradients([output], INDEX, lambda found: {LOGITS: pull})[0], pull)


def test_bfloat16_points_the_same_way_and_leaves_the_graph_in_float32() -> None:
    task, _ = inner()
    output = answer(task)[INDEX]
    pull = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    exact, coarse = (
        task.make_tail(precision, [LOGITS]).gradients([output], INDEX, lambda found: {LOGITS: pull})[0]
        for precision in ("float32", "bfloat16")
    )
    assert exact.dtype == coarse.dtype == torch.float32 and not torch.equal(exact, coarse)
    assert float(torch.cosine_similarity(exact.flatten(), coarse.flatten(), dim=0)) > 0.995
    assert {parameter.dtype for parameter in task.teacher.parameters()} == {torch.float32}


def test_nothing_in_the_tail_is_updated() -> None:
    """Neither parameters nor quantizers after the unit, and no gradient is left on a parameter anywhere."""
    made = calibration(recipe("pdquant_w2a2"))
    task, _ = task_at(made, 1)
    after = [name for unit in made.units[2:] for name in unit.nodes]
    quantized = {name: q for name, q in quantizers(made.graph).items() if name in after}
    before = {name: (q.scale.clone(), q.zero_point.clone()) for name, q in quantized.items()}
    parameters = {name: value.clone() for name, value in made.graph.named_parameters()}
    soft = choose_rounding("soft", {"learning_rate": 0.1})
    settings = Settings(steps=20, rounding=soft, keep_prob=0.5, scale_learning_rate=0.1)
    trainer = UnitTrainer(
        task, settings,
        lambda task, masks: PredictionDifference(
            task, masks, 0.5, task.make_tail("float32", [LOGITS]), float_predictions(made, None, 4.0), 1000.0
        ),
    )  # fmt: skip
    started = trainer.rounding.alpha.detach().clone()
    trainer.train(lambda count: None)
    assert not torch.equal(trainer.rounding.alpha, started)
    for name, value in made.graph.named_parameters():
        assert torch.equal(value, parameters[name]) and value.grad is None
    for name, quantizer in quantized.items():
        assert torch.equal(quantizer.scale, before[name][0]) and torch.equal(quantizer.zero_point, before[name][1])
        assert quantizer.codes is None and quantizer.stand_in is None


def test_an_output_that_the_prediction_does_not_need_gets_no_gradient() -> None:
    made = calibration(recipe("qdrop_w2a2"))
    task, boundary = task_at(made, 1)
    after = [name for unit in made.units[2:] for name in unit.nodes]
    tail = Tail(made.graph, after, (*task.student.output_names, "nobody"), boundary.student, [LOGITS])
    gradients = tail.gradients(
        [answer(task)[INDEX], torch.ones(4, 2)], INDEX, lambda found: {LOGITS: torch.ones_like(found[LOGITS])}
    )
    assert torch.equal(gradients[1], torch.zeros(4, 2)) and float(gradients[0].abs().max()) > 0.0


def detector_tail(unit: str) -> tuple[UnitTask, Tail, FloatPredictions]:
    """The tail of one unit of a detector with two heads."""
    made = detector_calibration("plain")
    place = next(place for place, each in enumerate(made.units) if each.name == unit)
    predictions = float_predictions(made, None)
    task, _ = task_at(made, place)
    return task, task.make_tail("float32", predictions.names), predictions


def test_all_heads_after_a_shared_unit_are_predicted_and_pull_at_it() -> None:
    task, tail, predictions = detector_tail("shared.0")
    assert tail.answers == predictions.names and len(tail.answers) == 2
    index = INDEX[:2]
    output = answer(task)[index]
    whole = [tail.gradients([output], index, lambda found, of=of: {
        name: torch.ones_like(value) * float(name in of) for name, value in found.items()})[0]
        for of in (tail.answers, tail.answers[:1], tail.answers[1:])]
    assert all(float(each.abs().max()) > 0.0 for each in whole)
    torch.testing.assert_close(whole[0], whole[1] + whole[2])


def test_a_head_predicts_its_own_answer_alone() -> None:
    for unit, place in (("classes", 0), ("distances", 1)):
        _, tail, predictions = detector_tail(unit)
        assert tail.answers == (predictions.names[place],)


def test_integers_beside_an_output_neither_pull_nor_are_pulled_at() -> None:
    task, _ = inner()
    output = answer(task)[INDEX]
    pull = torch.ones(4, 5)
    tail = task.make_tail("float32", [LOGITS])
    (expected,) = tail.gradients([output], INDEX, lambda found: {LOGITS: pull})
    tail._outputs = (*tail._outputs, "argmax")
    found, integers = tail.gradients([output, output.argmax(1)], INDEX, lambda found: {LOGITS: pull})
    assert torch.equal(found, expected)
    assert integers.is_floating_point() and integers.shape == output.argmax(1).shape and not integers.any()
