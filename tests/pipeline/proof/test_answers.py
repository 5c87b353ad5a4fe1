"""Answers are counted by what outputs are: classes, maps of classes, or values; distance is measured for any."""

import numpy as np
import pytest
import torch

from isobit.pipeline.proof.answers import Answers

STAGES = ("float", "calibrated", "artifact")


def counted(float_outputs, artifact, labels=None, calibrated=None):
    answers = Answers(STAGES)
    results = [np.asarray(x, np.float32) for x in (float_outputs, artifact if calibrated is None else calibrated,
                                                   artifact)]
    answers.add(dict(zip(STAGES, results, strict=True)), None if labels is None else torch.tensor(labels))
    return answers


def test_accuracy_agreement_and_the_pairs_after_a_loss():
    eye = np.eye(3)
    answers = counted(eye[[0, 1, 2, 0]], eye[[0, 2, 1, 1]], labels=[0, 1, 2, 1], calibrated=eye[[0, 1, 2, 1]])
    assert answers.accuracy == {"float": 75.0, "calibrated": 100.0, "artifact": 50.0}
    assert (answers.lost, answers.won) == (2, 1)
    assert answers.agreement["float"].percent == 25.0 and answers.agreement["calibrated"].percent == 50.0
    assert answers.chance == 0.5 and answers.pairs[1, 0] == 1 and answers.chosen[0] == 2
    assert answers.agreement_error == pytest.approx(np.sqrt(0.25 * 0.75 / 4))


@pytest.mark.parametrize("shape", [(6, 4, 8, 8), (6, 4, 10), (6, 4, 1, 1), (6, 1)])
def test_labels_are_no_measure_of_maps_and_values_and_no_share_exceeds_a_hundred(shape):
    outputs = np.random.default_rng(1).normal(size=shape)
    answers = counted(outputs, outputs, labels=[0] * 6)
    assert answers.accuracy == dict.fromkeys(STAGES) and answers.has_labels and answers.chance is None
    assert answers.agreement["float"].percent == (None if shape[1] == 1 else 100.0)


def test_agreement_of_maps_is_a_share_of_all_positions():
    maps = np.zeros((2, 2, 4, 4), np.float32)
    maps[:, 1] = 1
    other = maps.copy()
    other[0, 1, 0] = -1
    answers = counted(maps, other)
    assert answers.agreement["float"].percent == 87.5 and answers.agreement["float"].seen == 32
    # One of two samples differs, in a quarter of its places: positions of a sample are not independent.
    assert answers.agreement_error == pytest.approx(0.125 / np.sqrt(2))


def test_the_distance_to_float_is_in_decibel_and_over_all_batches():
    answers = Answers(STAGES)
    for value in (1.0, 3.0):
        signal = np.full((5, 1), value, np.float32)
        answers.add({"float": signal, "calibrated": signal, "artifact": signal + 1}, None)
    assert answers.signal_to_noise == {"calibrated": None, "artifact": pytest.approx(10 * np.log10(5), abs=0.01)}
    assert answers.unexplained == pytest.approx(1.0) and answers.samples == 10


def test_a_network_that_says_one_thing_leaves_nothing_to_explain():
    assert counted(np.full((5, 1), 0.1), np.full((5, 1), 0.3)).unexplained is None
    assert counted(np.zeros((5, 1)), np.zeros((5, 1))).unexplained is None
