"""Answers are counted by what outputs are: classes, maps of classes, or values; distance is measured for any."""

import numpy as np
import pytest
import torch

from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.measures import find_measures
from isobit.pipeline.proof.metrics import METRICS

STAGES = ("float", "calibrated", "artifact")


def counted(float_outputs, artifact, labels=None, calibrated=None, metrics=()):
    answers = Answers(STAGES, find_measures(metrics))
    results = [{"logits": np.asarray(x, np.float32)} for x in
               (float_outputs, artifact if calibrated is None else calibrated, artifact)]
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
    assert answers.kind == "values" and answers.agreement["float"].percent is None
    named = counted(outputs, outputs, labels=np.zeros((6, *shape[2:]), np.int64) if len(shape) > 2 else [0] * 6)
    assert named.agreement["float"].percent == (None if shape[1] == 1 else 100.0)
    assert named.accuracy == dict.fromkeys(STAGES) and named.chance is None


def test_agreement_of_maps_is_a_share_of_all_positions():
    maps = np.zeros((2, 2, 4, 4), np.float32)
    maps[:, 1] = 1
    other = maps.copy()
    other[0, 1, 0] = -1
    answers = counted(maps, other, metrics=["agreement"])
    assert answers.kind == "maps" and answers.measured["agreement"].values["calibrated"] == 100.0
    assert answers.agreement["float"].percent == 87.5 and answers.agreement["float"].seen == 32
    # One of two samples differs, in a quarter of its places: positions of a sample are not independent.
    assert answers.agreement_error == pytest.approx(0.125 / np.sqrt(2))


def test_the_distance_to_float_is_in_decibel_and_over_all_batches():
    answers = Answers(STAGES)
    for value in (1.0, 3.0):
        signal = {"value": np.full((5, 1), value, np.float32)}
        answers.add({"float": signal, "calibrated": signal, "artifact": {"value": signal["value"] + 1}}, None)
    assert answers.signal_to_noise == {"calibrated": None, "artifact": pytest.approx(10 * np.log10(5), abs=0.01)}
    assert answers.outputs["value"].noise["artifact"].unexplained == pytest.approx(1.0) and answers.samples == 10


def test_a_network_that_says_one_thing_leaves_nothing_to_explain():
    for given, artifact in ((np.full((5, 1), 0.1), np.full((5, 1), 0.3)), (np.zeros((5, 1)), np.zeros((5, 1)))):
        assert counted(given, artifact).outputs["logits"].noise["artifact"].unexplained is None


def test_a_metric_that_was_named_says_a_number_for_every_stage_it_compares():
    eye, metrics = np.eye(3), ["top5", "top1", "signal_to_noise", "cosine"]
    answers = counted(eye[[0, 1, 2, 0]], eye[[0, 2, 1, 1]], [0, 1, 2, 1], eye[[0, 1, 2, 1]], metrics)
    said = answers.measured
    assert list(said) == metrics and said["top5"].values == dict.fromkeys(STAGES, 100.0)
    assert said["top1"].values == answers.accuracy == {"float": 75.0, "calibrated": 100.0, "artifact": 50.0}
    assert said["signal_to_noise"].values == {"float": None} | answers.signal_to_noise
    assert said["signal_to_noise"].text == "signal to noise ratio, dB: calibrated 3.01, artifact -1.76"
    assert answers.measures.held.name == "top5" and answers.held_metric.name == "top5"


def test_what_is_always_counted_is_said_without_being_named_and_never_counted_twice():
    eye = np.eye(3)
    answers = counted(eye[[0, 1]], eye[[0, 2]])
    assert answers.measured == {} and list(answers.all_measured) == ["agreement", "signal_to_noise", "cosine"]
    published = {name for name, metric in METRICS.loaded().items() if metric.published}
    assert set(counted(eye[[0, 1]], eye[[0, 2]], [0, 1]).all_measured) == published
    assert answers.all_measured["agreement"].values == {"float": 50.0, "calibrated": 100.0, "artifact": None}
    named = counted(eye[[0, 1]], eye[[0, 2]], metrics=["signal_to_noise"])
    noise = named.outputs["logits"].noise["artifact"]
    assert noise.signal.count == 6 and named.measured["signal_to_noise"].values["artifact"] == noise.ratio


def test_a_metric_of_decoded_outputs_may_compare_with_those_of_float(tmp_path):
    from isobit.pipeline.samples.decoder import load_decoder

    (tmp_path / "own.py").write_text(
        "def text(outputs, size):\n    return 'ab'[int(outputs['logits'].argmax())]\n\n"
        "def same(given, wanted):\n    return [a == b for a, b in zip(given, wanted)]\n\n"
        "same.against, same.decoded = 'float', True\n"
    )
    measures = find_measures([f"{tmp_path}/own.py:same"], load_decoder(f"{tmp_path}/own.py:text"))
    answers = Answers(STAGES, measures)
    outputs = {"logits": np.eye(2, dtype=np.float32)}
    answers.add(dict.fromkeys(STAGES, outputs) | {"artifact": {"logits": outputs["logits"][[0, 0]]}}, None)
    assert answers.measured["same"].values == {"float": None, "calibrated": 1.0, "artifact": 0.5}


def test_without_targets_a_metric_is_judged_against_floats_answers_and_says_so():
    eye = np.eye(3)
    answers = counted(eye[[0, 1, 2, 0]], eye[[0, 2, 1, 1]], metrics=["f1", "top5"])
    said = answers.measured["f1"]
    assert said.values == {"float": 100.0, "calibrated": 25.0, "artifact": 25.0} and said.against == "float"
    assert said.title == "F1 of what is above the threshold against float's answers"
    assert said.to_json()["against"] == "float" and "remarks" not in said.to_json()
    assert answers.measured["top5"].to_json().keys() == {"title", "unit", "higher_is_better", "values"}
    judged = counted(eye[[0, 1]], eye[[0, 2]], labels=eye[[0, 1]], metrics=["f1"]).measured["f1"]
    assert judged.against == "" and "against" not in judged.title


def test_what_a_metric_remarks_stands_after_its_numbers(tmp_path):
    (tmp_path / "own.py").write_text(
        "class Odd:\n    answers = 'values'\n    def __init__(self):\n        self.seen = 0\n"
        "    def answer(self, outputs):\n        return outputs\n    def update(self, outputs, target):\n"
        "        self.seen += len(target['logits'])\n    def compute(self):\n        return self.seen\n"
        "    def remark(self):\n        return 'strange' if self.seen else ''\n")
    answers = Answers(STAGES, find_measures([f"{tmp_path}/own.py:Odd"]))
    outputs = {"logits": np.eye(2, dtype=np.float32)}
    answers.add(dict.fromkeys(STAGES, outputs), None)
    assert answers.measured["Odd"].to_json()["remarks"] == dict.fromkeys(STAGES, "strange")
    text = "Odd against float's values: float 2, calibrated 2, artifact 2; float: strange; "
    assert answers.measured["Odd"].text.startswith(text)
