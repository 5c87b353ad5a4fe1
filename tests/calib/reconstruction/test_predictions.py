"""The distance of predictions: the paper's for classifiers, and of detectors each part by hand."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.methods import find_method
from isobit.calib.reconstruction.losses import number_loss, prediction_loss, score_loss
from isobit.calib.reconstruction.predictions import (
    FloatPredictions,
    PredictionNames,
    answers_loss,
    background_of,
    float_predictions,
    score_of,
)
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.ends.predictions import Prediction
from isobit.pipeline.recipe.schema import MethodChoice
from tests.examples.units import calibration, detector_calibration

ALL = slice(None)
LOGITS, BOXES = Prediction("c", "classes", "scores"), Prediction("b", "boxes", "numbers", 1, "c")


def detector() -> FloatPredictions:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(6, 3, 5, 7, generator=generator) - 4
    values = {"c": logits, "b": torch.rand(6, 4, 5, 7, generator=generator)}
    return FloatPredictions((LOGITS, BOXES), values)


def test_a_classifier_is_compared_as_in_the_paper() -> None:
    made = calibration()
    found = float_predictions(made, None, 4.0)
    changed = found.values["linear"] + 0.1 * torch.randn(48, 5)
    assert found.plain and not made.findings.notes
    assert torch.equal(found.loss({"linear": changed}, ALL), prediction_loss(changed, found.values["linear"], 4.0))


def test_boxes_weigh_what_their_float_score_is_and_sums_are_by_objects() -> None:
    found = detector()
    changed = {name: value + 0.3 for name, value in found.values.items()}
    score = torch.sigmoid(found.values["c"]).amax(1, keepdim=True)
    objects = max(1.0, float(score.sum()) / 6)
    squares = float((score * found.values["b"].square()).sum()) / 6
    expected = score_loss(changed["c"], found.values["c"], objects) + number_loss(
        changed["b"], found.values["b"], squares, score)
    torch.testing.assert_close(found.loss(changed, ALL), expected)
    assert float(found.loss({"b": found.values["b"]}, ALL)) == 0.0


def test_gradients_are_autograds() -> None:
    found, index = detector(), torch.tensor([4, 0, 4])
    leaves = {name: (value[index] + 0.2).requires_grad_() for name, value in found.values.items()}
    found.loss(leaves, index).backward()
    gradients = found.gradients({name: leaf.detach() for name, leaf in leaves.items()}, index)
    for name, leaf in leaves.items():
        torch.testing.assert_close(gradients[name], leaf.grad, rtol=1e-4, atol=1e-7)


def test_the_class_that_takes_most_positions_is_the_background() -> None:
    logits = torch.zeros(2, 50, 3)
    logits[..., 1] = 5.0
    logits[:, 0] = torch.tensor([5.0, 0.0, 0.0])
    classes = Prediction("c", "c", "classes", 2)
    assert background_of(logits, classes) == 1 and background_of(torch.zeros(2, 50, 3), classes) is None
    score = score_of(logits, classes, 1)
    assert score.shape == (2, 50) and float(score[0, 0]) > 0.9 and float(score[0, 1]) < 0.1
    even = score_of(torch.zeros(2, 50, 3), classes, None)
    assert torch.equal(even, torch.ones(2, 50))


def test_numbers_are_compared_as_shares_of_their_squares() -> None:
    boxes, scores = torch.randn(4, 6, 4), torch.randn(4, 3)
    answered, both = {"boxes": boxes, "scores": scores}, [Prediction(n, n, "numbers") for n in ("boxes", "scores")]
    assert float(answers_loss(answered, answered, both)) == 0
    assert float(answers_loss({"boxes": 2 * boxes}, answered, both)) == pytest.approx(1.0)
    assert float(answers_loss({"boxes": 2 * boxes, "scores": 0 * scores}, answered, both)) == pytest.approx(2.0)
    alone = answers_loss({"scores": 2 * scores}, {"scores": scores}, [Prediction("scores", "scores", "classes")])
    assert torch.equal(alone, prediction_loss(2 * scores.double(), scores.double(), 1.0))
    assert float(answers_loss({}, answered, both)) == 0


def test_what_is_compared_is_told_and_may_be_stated() -> None:
    made = detector_calibration("plain")
    found = float_predictions(made, None)
    assert made.findings.notes == [found.text] == [
        "predictions compared: output_0: scores; output_1: numbers, weighed by the float scores"]
    stated = float_predictions(made, PredictionNames(classes=["output_0"], boxes=["output_1"]))
    assert [each.kind for each in stated.predictions] == ["classes", "numbers"]


def test_losses_of_batches_on_one_scale_add_up_to_that_of_all() -> None:
    """The images of the first batch show much, those of the second nothing."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 3, 5, 7, generator=generator) + torch.tensor([3.0, 3.0, -8.0, -8.0])[:, None, None, None]
    values = {"c": scores, "b": torch.rand(4, 4, 5, 7, generator=generator)}
    changed = {name: 1.1 * value for name, value in values.items()}
    whole = answers_loss(changed, values, (LOGITS, BOXES))
    scale = FloatPredictions((LOGITS, BOXES), {name: value.double() for name, value in values.items()})

    def batch(rows: slice, of: FloatPredictions | None) -> float:
        return 0.5 * float(answers_loss(
            *({name: value[rows] for name, value in each.items()} for each in (changed, values)), (LOGITS, BOXES), of))

    halves = slice(0, 2), slice(2, 4)
    assert sum(batch(rows, scale) for rows in halves) == pytest.approx(float(whole), rel=1e-9)
    assert sum(batch(rows, None) for rows in halves) != pytest.approx(float(whole), rel=1e-2)


@pytest.mark.parametrize(("stated", "words"), [
    ({}, "no prediction is named"), ({"scores": []}, "no prediction is named"),
    ({"scores": ["output_0"], "boxes": ["output_0"]}, "the prediction 'output_0' is named twice")])
def test_what_names_nothing_or_one_twice_is_refused_with_the_keys(stated: dict[str, list[str]], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as error:
        find_method(MethodChoice(name="pdquant", parameters={"prediction": stated}))
    assert error.value.field == "recipe.method.prediction" and error.value.allowed == "the keys classes, scores, boxes"


@pytest.mark.parametrize("kind", ["classes", "scores"])
def test_probabilities_are_compared_as_the_logits_that_give_them(kind: str) -> None:
    """A softmax or sigmoid in integers: the same loss, and its gradient by the probabilities."""
    turned = torch.sigmoid if kind == "scores" else lambda value: value.softmax(2)
    logits = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    of_logits = FloatPredictions([Prediction("p", "p", kind, 2)], {"p": logits})
    found = FloatPredictions([Prediction("p", "p", kind, 2, probabilities=True)], {"p": turned(logits)})
    torch.testing.assert_close(found.loss({"p": turned(logits + 0.3 * logits.sin())}, ALL),
                               of_logits.loss({"p": logits + 0.3 * logits.sin()}, ALL), rtol=1e-4, atol=1e-6)
    leaf = (0.9 * turned(logits)).requires_grad_()
    found.loss({"p": leaf}, ALL).backward()
    gradient = found.gradients({"p": leaf.detach()}, ALL)["p"]
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-7)
    assert all(value.isfinite().all() for value in found.gradients({"p": torch.zeros(6, 5, 3)}, ALL).values())


def test_rows_of_scores_weigh_rows_of_boxes() -> None:
    scores, boxes = torch.randn(2, 7, 3), torch.rand(2, 7, 4)
    found = FloatPredictions(
        [Prediction("s", "s", "scores", 2), Prediction("b", "b", "numbers", 2, "s")], {"s": scores, "b": boxes})
    weight = torch.sigmoid(scores.amax(2, keepdim=True))
    expected = float((weight * 0.01).sum() * 4 / (weight * boxes.square()).sum())
    assert float(found.loss({"b": boxes + 0.1}, ALL)) == pytest.approx(expected, rel=1e-4)
