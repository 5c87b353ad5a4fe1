"""How far a network's predictions are from the float network's: PD-Quant's loss, for classifiers, detectors and maps.

The paper compares the logits of a classifier by the divergence of their softmaxes. A detector has several answers, and
at most places there is no object, so each kind of prediction has its own distance, added up:

    classes [N, C]          KL(softmax(float / T) || softmax(now / T)), mean over images: the paper's
    classes at positions    the same with T = 1, summed over positions, by the expected number of objects
    scores                  KL of yes and no for each class, summed, by the expected number of objects
    numbers                 squared distance as a share of the float values' squares
    numbers beside scores   both sums weighed, position by position, by the float score

The expected number of objects is the mean over images of the sum over positions of float scores, at least one: what
detectors divide their losses by in training. The score of a position is, of scores, the largest of its classes'
sigmoids; of classes, one minus the softmax of the background, which is the class whose softmax is above one half on
average over all positions; one everywhere, where there is no such class (a map of classes: every position counts).
Where nothing is, a box may be anything, so the score weighs its error; and a temperature above one would raise the
tiny scores of the background, so positions have none. Scores and classes that come as probabilities, out of a sigmoid
or softmax in integers, are compared as the logits that give them. No paper states a loss of this kind for detectors:
the parts are the field's (KL distillation of dense predictions, boxes weighed by the teacher's confidence), their sum
is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.parameters import Parameters
from isobit.calib.reconstruction.losses import (
    number_gradient,
    number_loss,
    prediction_gradient,
    prediction_loss,
    score_gradient,
    score_loss,
)
from isobit.pipeline.graph.ends.predictions import Kind, Prediction, find_predictions

BACKGROUND = 0.5  # mean softmax above which a class is the background
LEAST = 1.0 / 512.0  # probability, half a step of 8 bits; the largest is as far from one
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class PredictionNames(Parameters):
    """What the predictions of a network are, where its graph does not show it: names of outputs, or of nodes.

    Args:
        classes: one of several, along a softmax's axis or else that of channels; what a softmax gave counts as such.
        scores: each class yes or no; what a sigmoid gave counts as such.
        boxes: numbers.
    """

    classes: list[str] = Field(default_factory=list)
    scores: list[str] = Field(default_factory=list)
    boxes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _name_something(self) -> PredictionNames:
        names = [name for known in self.by_kind.values() for name in known]
        if not names:
            raise ValueError("no prediction is named, so that none would be compared; leave 'prediction' out for what "
                             "the graph shows")
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"the prediction '{twice}' is named twice")
        return self

    @property
    def by_kind(self) -> dict[Kind, list[str]]:
        """The names by what they are."""
        return {"classes": self.classes, "scores": self.scores, "numbers": self.boxes}


class FloatPredictions:
    """The float network's predictions for all images, and the distance of others from them.

    Args:
        predictions: which values, of what kind.
        values: of the float network for all images, [N, ...] by the node's name.
        temperature: of the softmaxes of classes [N, C].
        scale: what sums are divided by, and what is background, as of these predictions of other images; None as of
            `values`. Losses of several batches add up only on one scale.
    """

    def __init__(
        self, predictions: Sequence[Prediction], values: Mapping[str, Tensor], temperature: float = 1.0,
        scale: FloatPredictions | None = None,
    ) -> None:
        self.predictions, self.temperature = tuple(predictions), temperature
        self.values = {each.node: _logits(values[each.node], each) for each in self.predictions}
        values = self.values
        scores = {each.node: each for each in self.predictions if each.kind != "numbers"}
        held = {node: each for node, each in scores.items() if values[node].dim() > 2}
        self._backgrounds: Mapping[str, int | None] = scale._backgrounds if scale is not None else {
            node: background_of(values[node], each) for node, each in held.items()}
        weights = {node: score_of(values[node], each, self._backgrounds[node]) for node, each in held.items()}
        self._weights = {
            each.node: weights[each.weighed_by].unsqueeze(each.axis)
            for each in self.predictions if each.weighed_by in weights
        }
        self._shares: Mapping[str, float] = scale._shares if scale is not None else {
            each.node: self._share(each, weights) for each in self.predictions}

    def _share(self, each: Prediction, weights: Mapping[str, Tensor]) -> float:
        """What the sum over one image is divided by."""
        value = self.values[each.node]
        if each.kind != "numbers":
            return 1.0 if value.dim() <= 2 else max(1.0, float(weights[each.node].sum()) / value.shape[0])
        weight = self._weights.get(each.node)
        squares = value.square() if weight is None else value.square() * weight
        return max(float(squares.double().sum()) / value.shape[0], 1e-30)

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes whose values are compared."""
        return tuple(each.node for each in self.predictions)

    @property
    def plain(self) -> bool:
        """One prediction of one class for each image: the paper's."""
        return [(each.kind, self.values[each.node].dim()) for each in self.predictions] == [("classes", 2)]

    @property
    def text(self) -> str:
        """What notes and reports say: what is compared, and as what."""
        return f"predictions compared: {'; '.join(each.text for each in self.predictions)}"

    def loss(self, found: Mapping[str, Tensor], index: Tensor | slice) -> Tensor:
        """The distance of `found` for the images `index`, added up; what is not in `found` counts as unchanged."""
        parts = [
            self._each(each, _logits(found[each.node], each), index, prediction_loss, score_loss, number_loss)
            for each in self.predictions if each.node in found
        ]
        return sum(parts[1:], parts[0]) if parts else torch.zeros(())

    def gradients(self, found: Mapping[str, Tensor], index: Tensor | slice) -> dict[str, Tensor]:
        """Gradients of `loss` by each of `found`."""
        gradients: dict[str, Tensor] = {}
        for each in self.predictions:
            if each.node in found:
                logits = _logits(found[each.node], each)
                by_logits = self._each(each, logits, index, prediction_gradient, score_gradient, number_gradient)
                gradients[each.node] = by_logits * _slope(found[each.node], each) if each.probabilities else by_logits
        return gradients

    def _each(
        self, each: Prediction, value: Tensor, index: Tensor | slice, classes: Callable[..., Tensor],
        scores: Callable[..., Tensor], numbers: Callable[..., Tensor],
    ) -> Tensor:
        teacher, share = _rows(self.values[each.node], index), self._shares[each.node]
        if each.kind == "classes":
            return classes(value, teacher, self.temperature if value.dim() == 2 else 1.0, each.axis, share)
        if each.kind == "scores":
            return scores(value, teacher, share)
        weight = self._weights.get(each.node)
        return numbers(value, teacher, share, None if weight is None else _rows(weight, index))


def _rows(values: Tensor, index: Tensor | slice) -> Tensor:
    return values[index] if isinstance(index, slice) else values.index_select(0, index)


def _logits(value: Tensor, prediction: Prediction) -> Tensor:
    """The logits of classes or scores; of probabilities such as give them."""
    if not prediction.probabilities:
        return value
    kept = value.clamp(LEAST, 1.0 - LEAST)
    return kept.log() if prediction.kind == "classes" else torch.logit(kept)


def _slope(value: Tensor, prediction: Prediction) -> Tensor:
    """What `_logits` grows by with a probability; at its ends, too, so that training can leave them."""
    kept = value.clamp(LEAST, 1.0 - LEAST)
    return 1.0 / kept if prediction.kind == "classes" else 1.0 / (kept * (1.0 - kept))


def background_of(logits: Tensor, prediction: Prediction) -> int | None:
    """The class that is the background; None where none is, or where a prediction is of scores."""
    if prediction.kind == "scores":
        return None
    means = torch.softmax(logits, prediction.axis).transpose(0, prediction.axis).flatten(1).mean(1)
    largest = int(means.argmax())
    return largest if float(means[largest]) > BACKGROUND else None


def score_of(logits: Tensor, prediction: Prediction, background: int | None) -> Tensor:
    """The float score of each position, from logits of classes or scores: that something is there; see above.

    Args:
        background: of `background_of`.
    """
    if prediction.kind == "scores":
        return torch.sigmoid(logits.amax(prediction.axis))
    shares = torch.softmax(logits, prediction.axis)
    if background is None:
        return torch.ones_like(shares.select(prediction.axis, 0))
    return 1.0 - shares.select(prediction.axis, background)


def float_predictions(
    calibration: Calibration, stated: PredictionNames | None, temperature: float = 1.0
) -> FloatPredictions:
    """The predictions of the network under calibration; what they are is told where it is not a classifier's.

    Args:
        stated: what the recipe says of them.
    """
    predictions = find_predictions(calibration.graph, stated.by_kind if stated else None)
    found = FloatPredictions(
        predictions, calibration.float_values([each.node for each in predictions]), temperature
    )
    if not found.plain and found.text not in calibration.findings.notes:
        calibration.findings.notes.append(found.text)
        calibration.progress.note(found.text)
    return found


def answers_loss(
    changed: Mapping[str, Tensor], answered: Mapping[str, Tensor], predictions: Collection[Prediction],
    scale: FloatPredictions | None = None,
) -> Tensor:
    """How far a network's predictions are from the float network's for one batch, in float64: `FloatPredictions.loss`.

    Args:
        changed, answered: by the node's name; those that `changed` does not name are as they were.
        scale: of all batches; None for this one's.
    """
    exact = FloatPredictions(
        tuple(predictions), {name: value.double() for name, value in answered.items()}, scale=scale)
    return exact.loss({name: value.double() for name, value in changed.items()}, slice(None))
