"""Decoders of face detectors: boxes drawn into maps and offsets come out where they were put, each once."""

import numpy as np

from tools.check import decoders

SIZE = (64, 96)


def test_a_prior_with_an_offset_is_one_face():
    priors = np.concatenate([decoders._priors(*SIZE, stride, sides) for stride, sides in decoders.PRIORS])
    assert len(priors) == 8 * 12 * 3 + 4 * 6 * 2 + 2 * 3 * 2 + 1 * 2 * 3
    assert priors[0].tolist() == [4, 4, 10, 10] and priors[3 * 13].tolist() == [12, 12, 10, 10]
    scores, boxes = np.zeros((len(priors), 2), np.float32), np.zeros((len(priors), 4), np.float32)
    scores[[3 * 13, 3 * 13 + 1], 1] = 0.9, 0.6  # a neighbour of the same place is the same face
    boxes[3 * 13] = [10, 0, np.log(1.6) / decoders.SIDE, np.log(1.6) / decoders.SIDE]
    boxes[3 * 13 + 1] = [6.25, 0, 0, 0]
    found, sure, labels = decoders.ultraface({"scores": scores, "boxes": boxes}, SIZE)
    assert np.allclose(found, [[14, 4, 30, 20]], atol=1e-4) and sure.tolist() == [np.float32(0.9)]
    assert labels.tolist() == [0]


def test_a_peak_of_the_heat_is_a_face_and_what_leaves_the_picture_is_clipped():
    heat, sizes, offsets = np.zeros((1, 16, 24)), np.zeros((2, 16, 24)), np.zeros((2, 16, 24))
    heat[0, 5, 7], sizes[:, 5, 7], offsets[:, 5, 7] = 0.8, [np.log(3), np.log(2)], [0.25, -0.25]
    heat[0, 0, 0] = 0.3
    outputs = {"537": heat, "538": sizes, "539": offsets, "540": np.zeros((10, 16, 24))}
    found, sure, _ = decoders.centerface(outputs, SIZE)
    assert np.allclose(found, [[25, 17, 33, 29], [0, 0, 4, 4]]) and sure.tolist() == [0.8, 0.3]


def test_nothing_is_an_answer():
    found, sure, labels = decoders.centerface({
        "a": np.zeros((1, 2, 2)), "b": np.zeros((2, 2, 2)), "c": np.zeros((2, 2, 2))}, SIZE)
    assert found.shape == (0, 4) and len(sure) == len(labels) == 0
