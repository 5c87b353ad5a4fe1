"""F1 and intersection over union above a threshold, against numbers counted by hand."""

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import find_metric

MAP = np.float32([[[0.9, 0.5, 0.1, 0.2]]])  # [1, 1, 4]: yes, yes, no, no
WANTED = np.array([[[1, 0, 1, 0]]])


def measured(name, *batches):
    metric = find_metric(name).make()
    for outputs, target in batches:
        metric.update(outputs, target)
    return metric.compute()


def test_hits_over_what_either_says():
    assert measured("f1", ({"map": MAP}, WANTED)) == 50.0 and measured("iou", ({"map": MAP}, WANTED)) == 33.3333
    assert measured("f1:threshold=0.6", ({"map": MAP}, WANTED)) == 66.6667
    assert measured("f1", ({"map": MAP}, WANTED), ({"map": MAP}, WANTED)) == 50.0
    assert measured("iou", ({"map": MAP}, torch.from_numpy(WANTED[:, 0]))) == 33.3333
    assert measured("f1:threshold=2", ({"map": MAP}, 0 * WANTED)) is None


def test_floats_answers_stand_for_targets_and_the_worst_output_counts():
    metric = find_metric("f1").make()
    given, other = {"a": MAP, "b": MAP}, {"a": MAP, "b": MAP[..., ::-1]}
    assert metric.answer(given)["a"].tolist() == [[[True, True, False, False]]]
    metric.update(other, metric.answer(given))
    assert metric.compute() == 0.0
    assert measured("f1:output=a", (other, metric.answer(given))) == 100.0


def test_targets_by_name_and_of_the_first_output():
    outputs = {"a": MAP, "b": 1 - MAP}
    assert measured("f1", (outputs, WANTED)) == 50.0
    assert measured("f1", (outputs, [{"b": np.array([[0, 1, 1, 1]])}])) == measured("f1", ({"b": 1 - MAP}, [
        {"b": np.array([[0, 1, 1, 1]])}])) == 100.0
    for target, message in (([{"c": WANTED[0]}], "no target has the name"), (np.ones((1, 3)), r"of shape \[1, 3\]")):
        with pytest.raises(InputError, match=message):
            measured("f1", (outputs, target))
    with pytest.raises(InputError, match="the network has no output 'c'") as error:
        measured("iou:output=c", (outputs, WANTED))
    assert error.value.allowed == "output=a or b"
