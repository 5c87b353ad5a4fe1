"""The cell detector's decoder: boxes where its docstring puts them, the better of two that overlap, the best first."""

from __future__ import annotations

import numpy as np

from tools.reproduce.cell_boxes import MOST, decode, suppressed


def outputs(height=4, width=5):
    return {"scores": np.full((3, height, width), -9.0), "places": np.ones((4, height, width))}


def test_a_box_is_centred_on_its_place_and_clipped_to_the_picture():
    given = outputs()
    given["scores"][1, 2, 3] = 2.0
    given["places"][:, 2, 3] = (1.0, 0.5, 9.0, 1.0)
    boxes, scores, labels = decode(given, (32, 40))
    assert boxes.tolist() == [[20.0, 16.0, 40.0, 28.0]] and labels.tolist() == [1]
    assert abs(float(scores[0]) - 1 / (1 + np.exp(-2.0))) < 1e-12


def test_of_two_that_overlap_the_better_one_stays_unless_they_are_of_two_classes():
    boxes = np.float64([[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]])
    assert suppressed(boxes, np.float64([0.5, 0.9, 0.2])) == [1, 2]
    given = outputs()
    given["scores"][:2, 1, 1] = 1.0
    assert sorted(decode(given, (32, 40))[2].tolist()) == [0, 1]


def test_nothing_and_too_much():
    assert [len(part) for part in decode(outputs(), (32, 40))] == [0, 0, 0]
    given = outputs(30, 40)
    given["scores"][:] = np.random.default_rng(0).normal(0, 1, (3, 30, 40))
    given["places"][:] = 0.4
    _, scores, _ = decode(given, (240, 320))
    assert len(scores) == MOST and (np.diff(scores) <= 0).all()
