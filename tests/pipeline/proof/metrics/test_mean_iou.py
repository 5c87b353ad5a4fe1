"""Mean intersection over union against counts by hand; positions of 255 are not counted."""

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics.mean_iou import MeanIou


def maps(chosen, classes=3):
    return {"map": np.eye(classes, dtype=np.float32)[np.asarray(chosen)].transpose(0, 3, 1, 2)}


CHOSEN = [[[0, 0], [1, 1]], [[1, 1], [1, 0]]]
LABELS = [[[0, 1], [1, 1]], [[1, 255], [0, 0]]]


def test_classes_that_either_has_are_averaged():
    # 0: shared 2 of 4 (chosen 3, labelled 3 of 7 counted); 1: shared 3 of 5; 2 is nowhere.
    whole, split = MeanIou(), MeanIou()
    whole.update(maps(CHOSEN), torch.tensor(LABELS))
    for chosen, labels in zip(CHOSEN, LABELS, strict=True):
        split.update(maps([chosen]), torch.tensor([labels]))
    assert whole.compute() == split.compute() == pytest.approx(100 * (2 / 4 + 3 / 5) / 2, abs=1e-4)


def test_nothing_counted_says_nothing():
    iou = MeanIou()
    assert iou.compute() is None
    iou.update(maps([[[0]]]), torch.tensor([[[255]]]))
    assert iou.compute() is None


@pytest.mark.parametrize(("labels", "words"), [
    ([[[0, 3], [0, 0]]], "hold the class 3, and the network has 3"), ([[[0, -1], [0, 0]]], "hold the class -1"),
    ([[0, 1]], "cannot compare with targets of shape"), ([[[0.0, 1.0], [0.0, 1.0]]], "type float32"),
])
def test_labels_that_do_not_fit_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        MeanIou().update(maps([[[0, 1], [2, 0]]]), torch.tensor(labels))
