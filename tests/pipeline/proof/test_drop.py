"""What a drop is counted in: the named metric, labels, or the float network's own choices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.drop import measured_drop
from isobit.pipeline.proof.measures import Measures, find_measures

FLOAT = np.eye(4, dtype=np.float32)
OTHER = np.stack([FLOAT[0], FLOAT[1], FLOAT[2], FLOAT[0]])  # the last choice is another


def drop(targets, measures=None, before=FLOAT, after=OTHER):
    answers = Answers(("float", "artifact"), measures or Measures())
    answers.add({"float": {"y": before}, "artifact": {"y": after}}, targets)
    return measured_drop(answers)


def test_labels_are_compared_where_there_are_some():
    found = drop(torch.tensor([0, 1, 2, 3]))
    assert (found.title, found.before, found.after, found.lost) == ("top-1 accuracy", 100.0, 75.0, 25.0)
    assert "25.00 points lost" in found.text
    assert drop(torch.tensor([0, 1, 2, 0])).lost == -25.0  # better than float
    assert drop(torch.tensor([0, 1, 2, 0])).text.endswith("-> 100, 25.00 points gained (+- 69.30)")


def test_without_labels_float_s_choices_are_the_labels():
    found = drop(None)
    assert (found.title, found.before, found.lost) == ("the same choice as float", 100.0, 25.0)
    assert found.error == pytest.approx(1.96 * 100 * np.std([0, 0, 0, 1], ddof=1) / 2, rel=0.2)


def test_a_named_metric_comes_first_and_is_worse_in_its_own_direction():
    targets = torch.from_numpy(FLOAT)
    found = drop(targets, find_measures(["mean_absolute_error"]))
    assert found.lost == pytest.approx(float(np.abs(OTHER - FLOAT).mean())) and "absolute" in found.title


def test_numbers_without_a_metric_have_no_drop():
    maps = np.zeros((2, 1, 3, 3), np.float32)
    assert drop(None, before=maps, after=maps + 1) is None
    assert drop(None, find_measures(["signal_to_noise"]), before=maps, after=maps + 1) is None
