"""Top-5 accuracy against hits counted by hand; of equal values the lower class comes first, as argmax has it."""

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics.top5 import Top5

FALLING = np.arange(8, 0, -1, dtype=np.float32)  # class 0 is the likeliest


def measured(*batches):
    top5 = Top5()
    for logits, labels in batches:
        top5.update({"logits": np.float32(logits)}, torch.tensor(labels))
    return top5.compute()


def test_the_first_five_count_over_batches():
    assert measured(([FALLING] * 4, [0, 4, 5, 7])) == 50.0
    assert measured(([FALLING] * 2, [0, 4]), ([FALLING] * 2, [5, 7])) == 50.0


def test_ties_are_broken_as_argmax_breaks_them():
    assert measured((np.zeros((2, 8)), [4, 5])) == 50.0


def test_no_more_than_five_classes_are_always_right_and_other_labels_never():
    assert measured((np.eye(3), [2, 1, 0])) == 100.0
    assert measured((np.eye(3), [2, 7, -1])) == pytest.approx(33.3333)


def test_values_that_are_not_finite_are_no_hit():
    assert measured(([[np.nan] * 8], [0])) == 0.0


def test_maps_are_refused():
    with pytest.raises(InputError, match="one choice a sample"):
        measured((np.zeros((1, 6, 2, 2)), [[[0, 0], [0, 0]]]))
