"""COCO's mean average precision against hand-computed cases; the boxes come from a decoder."""

import sys
from pathlib import Path

import numpy as np
import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.measures import find_measures
from isobit.pipeline.proof.metrics.mean_average_precision import AveragePrecision50, MeanAveragePrecision
from isobit.pipeline.samples.decoder import Decoder, Detections

SQUARE = [10.0, 10.0, 50.0, 50.0]
FAR = [60.0, 60.0, 90.0, 90.0]


@pytest.fixture
def measured():
    pytest.importorskip("faster_coco_eval", reason="the extra `detection` (faster-coco-eval) is not installed")

    def run(*batches):
        metric = MeanAveragePrecision()
        for found, wanted in batches:
            metric.update(found, wanted)
        return metric.compute()

    return run


def decoder():
    return Decoder(Path("own.py"), "decode", lambda outputs, size: None)


def found(*boxes, scores=None, labels=None):
    count = len(boxes)
    return Detections(np.float32(boxes).reshape(count, 4), np.float32(scores or [0.9] * count),
                      np.int64(labels or [0] * count))


def wanted(*boxes, labels=None, **more):
    return {"boxes": np.float32(boxes).reshape(len(boxes), 4), "labels": labels or [0] * len(boxes), **more}


def test_boxes_where_they_should_be_are_all_of_it_and_none_are_nothing(measured):
    assert measured(([found(SQUARE, FAR)], [wanted(SQUARE, FAR)])) == 100.0
    assert measured(([found()], [wanted(SQUARE)])) == 0.0
    assert measured(([found(FAR)], [wanted(SQUARE)])) == 0.0
    assert measured(([found(SQUARE)], [wanted()])) is None
    assert measured(([found(SQUARE, labels=[1])], [wanted(SQUARE)])) == 0.0


def test_the_overlaps_that_a_box_reaches_count(measured):
    # 40x40 against 40x30 inside it: an overlap of 0.75 passes 0.5, 0.55, ... 0.75: 6 of 10.
    assert measured(([found([10.0, 10.0, 50.0, 40.0])], [wanted(SQUARE)])) == pytest.approx(60.0, abs=0.01)


def test_precision_is_over_all_images_and_batches(measured):
    # Two boxes are wanted. By score: right, wrong, right. At recalls to 0.5 the precision is 1, above it 2/3.
    first = found(SQUARE, FAR, scores=[0.9, 0.8]), wanted(SQUARE)
    second = found(SQUARE, scores=[0.7]), wanted(SQUARE)
    whole = measured(([first[0], second[0]], [first[1], second[1]]))
    assert whole == measured(([first[0]], [first[1]]), ([second[0]], [second[1]]))
    assert whole == pytest.approx(100 * (51 * 1 + 50 * 2 / 3) / 101, abs=0.01)


def test_classes_are_averaged(measured):
    assert measured(([found(SQUARE, labels=[3])], [wanted(SQUARE, FAR, labels=[3, 7])])) == pytest.approx(50.0)


def test_a_crowd_is_no_miss_and_what_is_not_finite_no_box(measured):
    assert measured(([found(SQUARE)], [wanted(SQUARE, FAR, iscrowd=[0, 1])])) == 100.0
    assert measured(([found(SQUARE, [np.nan] * 4)], [wanted(SQUARE)])) == 100.0


@pytest.mark.parametrize("target", [
    3, [SQUARE], {"boxes": [SQUARE]}, {"boxes": [SQUARE], "labels": [0, 1]}, {"boxes": [[1, 2]], "labels": [0]},
    {"boxes": [[np.nan] * 4], "labels": [0]}, {"boxes": "abcd", "labels": [0]},
    {"boxes": [SQUARE], "labels": [0], "iscrowd": [0, 1]},
])
def test_targets_that_cannot_be_read_are_refused(measured, target):
    with pytest.raises(InputError, match=r"a target of average precision \(map, map50\) cannot be read") as error:
        measured(([found(SQUARE)], [target]))
    assert "boxes [M, 4]" in error.value.allowed and error.value.field == "evaluation"


def test_the_overlap_of_a_half_alone_is_a_figure_of_its_own(measured):
    metric = AveragePrecision50()
    metric.update([found([10.0, 10.0, 50.0, 40.0])], [wanted(SQUARE)])
    assert metric.compute() == 100.0
    assert [one.name for one in find_measures(["map"], decoder()).metrics] == ["map", "map50"]
    assert [one.name for one in find_measures(["map50", "map"], decoder()).metrics] == ["map50", "map"]
    assert [one.name for one in find_measures(["map:score=0.5"], decoder()).metrics] == [
        "map:score=0.5", "map50:score=0.5"]


def test_boxes_that_are_none_are_counted_and_told(measured):
    metric = MeanAveragePrecision()
    metric.update([found(SQUARE, [50.0, 10.0, 10.0, 50.0], [np.inf] * 4, [1.0, 1.0, 1.0, 1.0])], [wanted(SQUARE)])
    assert metric.compute() == 100.0 and metric.remark().startswith("2 of 4 boxes have a side below 0")
    metric.check_float()
    metric.update([found([50.0, 10.0, 10.0, 50.0])], [wanted(SQUARE)])
    with pytest.raises(InputError, match="3 of 5 boxes have a side below 0 or are not finite, of the float") as error:
        metric.check_float()
    assert error.value.field == "options.decoder" and "x1 y1 x2 y2" in error.value.allowed


def test_floats_boxes_of_a_high_score_stand_for_targets(measured):
    given = found(SQUARE, FAR, [50.0, 10.0, 10.0, 50.0], [5.0, 5.0, 5.0, 9.0], scores=[0.9, 0.2, 0.9, 0.9])
    metric = MeanAveragePrecision()
    (answer,) = metric.answer([given])
    assert answer["boxes"].tolist() == [SQUARE] and answer["labels"].tolist() == [0]
    metric.update([given], [answer])
    assert metric.compute() == 100.0
    assert len(MeanAveragePrecision(score=0.1).answer([given])[0]["boxes"]) == 2


def test_a_crowd_of_more_than_a_hundred_is_all_found_against_float(measured):
    many = [[8.0 * x, 8.0 * y, 8.0 * x + 6, 8.0 * y + 6] for x in range(15) for y in range(10)]
    metric = MeanAveragePrecision()
    metric.update([found(*many)], metric.answer([found(*many)]))
    assert metric.compute() == 100.0
    assert measured(([found(*many)], [wanted(*many)])) < 70


def test_crowds_alone_are_nothing_to_find(measured):
    assert measured(([found(SQUARE)], [wanted(SQUARE, iscrowd=[1])])) is None
    assert measured(([found()], [wanted(SQUARE, iscrowd=[1])])) is None


def test_texts_are_no_boxes(measured):
    with pytest.raises(InputError, match="the decoder gives str"):
        measured((["a"], [wanted(SQUARE)]))


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match="needs faster-coco-eval") as error:
        MeanAveragePrecision()
    assert error.value.hint == "pip install 'isobit[detection]'" and error.value.field == "options.metrics"
