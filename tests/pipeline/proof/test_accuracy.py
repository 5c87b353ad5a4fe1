"""The verdict on accuracy: what is said of which answers and samples, and what so few samples cannot say."""

import numpy as np
import pytest
import torch

from isobit.pipeline.proof.accuracy import judge, points_lost
from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.findings import Finding
from isobit.pipeline.proof.measures import find_measures
from isobit.pipeline.proof.observed import Seen, look_at

STAGES = ("float", "calibrated", "reference", "artifact")
CLASSES = 10


def answered(labels, right, artifact_right, *, wrong_by=3, calibrated_right=None, given=True):
    """Answers to these labels where float names the first `right` right and the artifact the first `artifact_right`."""
    labels = np.asarray(labels)

    def logits(hits):
        chosen = np.where(np.arange(len(labels)) < hits, labels, (labels + wrong_by) % CLASSES)
        return {"logits": np.eye(CLASSES, dtype=np.float32)[chosen]}

    answers = Answers(STAGES)
    calibrated = logits(artifact_right if calibrated_right is None else calibrated_right)
    answers.add({"float": logits(right), "calibrated": calibrated, "reference": calibrated,
                 "artifact": logits(artifact_right)}, torch.as_tensor(labels) if given else None)
    return answers


def balanced(count):
    return np.arange(count) % CLASSES


def images(scale=1.0, shift=0.0, seed=0, samples=16):
    drawn = torch.rand(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return look_at(scale * drawn + shift)


def whole(verdict):
    return " ".join([verdict.text, *(finding.text for finding in verdict.findings)])


def test_a_small_loss_is_ok_and_says_how_exactly_it_is_known():
    found = judge(answered(balanced(1000), 900, 890))
    assert found.status == "ok" and not found.findings and (found.chance, found.allowed) == (10.0, 5.0)
    assert "90.00 % (float) -> 89.00 % (artifact): 1.00 points lost (+- 0.65; 1,000 samples, chance 10" in found.text


@pytest.mark.parametrize(("right", "left", "allowed"), [(900, 800, 5.0), (300, 250, 2.0)])
def test_a_loss_beyond_five_points_or_a_tenth_of_what_float_has_is_a_warning(right, left, allowed):
    found = judge(answered(balanced(1000), right, left))
    assert found.status == "warning" and found.allowed == allowed and f"more than {allowed:.2f} lost" in found.text
    assert "from float to calibrated. Likely cause: few bits" in whole(found)


def test_the_allowed_loss_is_the_smaller_of_the_two():
    assert judge(answered(balanced(1000), 900, 851)).status == "ok"
    assert judge(answered(balanced(1000), 300, 262)).status == "warning"


def test_a_loss_that_so_few_samples_may_show_by_chance_is_no_warning():
    found = judge(answered(balanced(20), 19, 17))
    assert found.status == "unknown" and "more of them would tell" in found.text
    assert judge(answered(balanced(20), 19, 2)).status == "warning"


def test_the_stage_that_loses_is_named():
    found = judge(answered(balanced(1000), 900, 700, calibrated_right=890))
    assert "200" not in found.text and "20.00 points lost" in found.text.replace("19.00", "")
    assert "19.00 points are lost from reference to artifact" in whole(found)


def test_max_drop_takes_the_place_of_the_default_and_fails():
    assert judge(answered(balanced(1000), 900, 800), max_drop=20.0).status == "ok"
    found = judge(answered(balanced(1000), 900, 800), max_drop=7.0)
    assert found.status == "failed" and found.allowed == 7.0 and not found.rule.passed and found.rule.of == "accuracy"
    assert found.text.endswith("10.00 points are lost, `options.max_drop` allows 7") and "few bits" in whole(found)
    assert judge(answered(balanced(1000), 900, 890), max_drop=0.5).status == "failed"


def test_a_float_network_at_chance_is_a_warning_whatever_the_artifact_does():
    labels = balanced(1000)
    answers = Answers(STAGES)
    chosen = np.random.default_rng(0).permutation(labels)
    logits = {"logits": np.eye(CLASSES, dtype=np.float32)[chosen]}
    answers.add(dict.fromkeys(STAGES, logits), torch.tensor(labels))
    found = judge(answers)
    assert found.status == "warning" and "at or near chance level" in found.text
    assert "little to do with the labels" in whole(found)


def test_a_little_better_than_chance_is_near_it():
    assert "near chance" in judge(answered(balanced(10_000), 1500, 1500)).text
    assert "near chance" not in judge(answered(balanced(10_000), 2500, 2500, wrong_by=5)).text


def test_chance_is_the_commonest_label_not_one_in_ten():
    labels = [0] * 900 + list(balanced(100))
    assert judge(answered(labels, 910, 910)).status == "warning"  # 91 % is what a constant answer reaches
    assert judge(answered(labels, 990, 985)).status == "ok"


def test_labels_in_another_order_are_recognised():
    found = judge(answered(balanced(1000), 0, 0))
    assert found.status == "warning" and "for 100 % of the samples" in whole(found)
    assert "count the classes in another order" in found.findings[0].cause
    assert "another order than" not in whole(judge(answered(balanced(20), 0, 0)))  # two for each class: no evidence
    # Three of five are right as they are: no other order explains the rest.
    assert "another order than" not in whole(judge(answered(balanced(1000), 610, 400)))


@pytest.mark.parametrize("right", [True, False])
def test_one_class_of_labels_and_too_few_samples_say_nothing(right):
    one = judge(answered([3] * 50, 50 * right, 50 * right))
    assert one.status == "unknown" and "one class" in one.text
    few = judge(answered([0, 1], 2 * right, 2 * right))
    assert few.status == "unknown" and "too few" in few.text


PIXELS, SMALL, NORMAL = images(255.0), images(1.0), images(4.0, -2.0)
FLAT = images(0.004, -0.8)


@pytest.mark.parametrize(
    ("inputs", "words"), [(PIXELS, "pixels of 0 to 255"), (FLAT, "`mean` and `std` in 0 to 255"), (NORMAL, "")]
)
def test_inputs_explain_a_low_float_accuracy(inputs, words):
    seen = Seen(inputs, inputs)
    for right in (100, 400):
        found = judge(answered(balanced(1000), right, right, wrong_by=1), seen)
        assert (words in whole(found)) and (found.status == "warning")
    assert judge(answered(balanced(1000), 900, 900), seen).status == "ok"


@pytest.mark.parametrize(
    ("calibration", "evaluation", "outside"),
    [(SMALL, PIXELS, 0.99), (PIXELS, SMALL, 0.0), (NORMAL, PIXELS, 0.9), (PIXELS, NORMAL, 0.5), (SMALL, NORMAL, 0.7),
     (images(4.7, -2), SMALL, 0.0)],
)
def test_sets_that_are_prepared_differently_are_to_blame_not_the_bits(calibration, evaluation, outside):
    found = judge(answered(balanced(1000), 900, 200), Seen(calibration, evaluation, outside))
    assert found.status == "warning" and found.blames_calibration
    assert "scaled or normalised otherwise" in whole(found) and "few bits" not in whole(found)


def test_sets_that_are_prepared_alike_are_not_blamed():
    for one, other in [(SMALL, images(seed=1)), (NORMAL, images(3.0, -1.5, seed=2)), (images(samples=1), SMALL)]:
        assert not judge(answered(balanced(1000), 900, 890), Seen(one, other, 0.01)).findings


def test_blank_and_repeated_calibration_and_constant_tensors_are_said_each():
    blank = look_at(torch.zeros(4, 3, 8, 8) + torch.arange(4).reshape(4, 1, 1, 1))
    same = look_at(torch.rand(1, 3, 8, 8).repeat(4, 1, 1, 1))
    assert "100 % have one value in every channel" in whole(judge(answered(balanced(1000), 900, 890), Seen(blank)))
    assert "one and the same sample" in whole(judge(answered(balanced(1000), 900, 890), Seen(same)))
    seen = Seen(SMALL, SMALL, tensors=7, constant=(("relu_q", "layer1"), ("add_q", "")))
    found = judge(answered(balanced(1000), 900, 890), seen)
    assert found.status == "warning" and "leaves 2 of 7 tensors constant, the first is relu_q (layer1)" in whole(found)


def test_without_labels_agreement_stands_in():
    assert judge(answered(balanced(1000), 1000, 950, given=False)).status == "ok"
    found = judge(answered(balanced(1000), 1000, 200, given=False))
    assert found.status == "warning" and found.chance is None
    assert "choose the same class for 20.00 % of 1,000 samples, less than 91.00 %" in found.text
    assert judge(answered(balanced(8), 8, 7, given=False)).status == "unknown"
    assert judge(answered([0] * 50, 50, 50, given=False)).status == "unknown"
    assert judge(answered(balanced(1000), 1000, 1000, given=False), Seen(PIXELS)).status == "unknown"


def test_values_beside_choices_tell_whether_other_choices_matter():
    """An embedding [N, C] near to float's chooses otherwise where its largest values are nearly the same."""
    drawn = np.random.default_rng(0)
    signal = (drawn.normal(size=(500, 1)) * np.ones(8) + 0.01 * drawn.normal(size=(500, 8))).astype(np.float32)
    near = signal + np.float32(0.02) * drawn.normal(size=signal.shape).astype(np.float32)
    found = judge(outputs_of({"embedding": signal}, {"embedding": near}))
    assert found.status == "unknown" and "dB above" in found.text and "the largest value is the answer" in found.text


def outputs_of(signal, artifact, target=None, metrics=()):
    """Answers of float and of an artifact, by output name; the other stages are float."""
    answers = Answers(STAGES, find_measures(metrics))
    answers.add(dict.fromkeys(STAGES, signal) | {"artifact": artifact}, target)
    return answers


@pytest.mark.parametrize(("noise", "status"), [(0.01, "ok"), (0.2, "unknown"), (1.0, "warning"), (np.inf, "warning")])
@pytest.mark.parametrize("shape", [(50, 1), (50, 1, 4, 4), (50, 3, 4, 4), (50, 12, 4)])
def test_of_values_the_distance_stands_in(noise, status, shape):
    random = np.random.default_rng(0)
    signal = 100 + random.normal(size=shape).astype(np.float32)
    with np.errstate(invalid="ignore"):
        found = judge(outputs_of({"value": signal}, {"value": signal + np.float32(noise)}, torch.zeros(50).long()))
    assert found.status == status and ("dB above" in found.text) == bool(np.isfinite(noise))
    assert "labels are not compared" in found.text and "no choice between classes" in found.text
    assert f"[N, {', '.join(map(str, shape[1:]))}]" in found.text


def test_boxes_and_scores_at_positions_are_no_classes():
    """Scores [N, positions, 2] and boxes [N, positions, 4]: the largest of 50 positions says nothing."""
    random = np.random.default_rng(0)
    signal = {"scores": np.float32(random.normal(size=(4, 50, 2))), "boxes": np.float32(random.normal(size=(4, 50, 4)))}
    found = judge(outputs_of(signal, {name: value + np.float32(0.01) for name, value in signal.items()}))
    assert found.status == "ok" and "same class" not in found.text and "positions" not in found.text


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_the_worst_output_decides_and_is_named(order):
    random = np.random.default_rng(0)
    signal = {name: np.float32(random.normal(size=(4, 50, 2))) for name in order}
    artifact = {name: value + np.float32(2.0 if name == "bad" else 0.01) for name, value in signal.items()}
    found = judge(outputs_of(signal, artifact))
    assert found.status == "warning" and "the worst of 2 outputs is 'bad': its values lie -6." in found.text
    assert "otherwise than the float network at output 'bad'" in whole(found)


@pytest.mark.parametrize("labels", [True, False])
def test_outputs_after_the_classes_count_too(labels):
    eye, random = np.eye(CLASSES, dtype=np.float32)[balanced(200)], np.random.default_rng(0)
    boxes = np.float32(random.normal(size=(200, 4)))
    target = torch.as_tensor(balanced(200)) if labels else None
    for moved, status in ((0.01, "ok"), (2.0, "warning")):
        found = judge(outputs_of({"logits": eye, "boxes": boxes}, {"logits": eye, "boxes": boxes + np.float32(moved)},
                                 target))
        assert found.status == status and "of the other outputs, the values of the output 'boxes'" in found.text
        assert ("top-1 100.00 % (float)" in found.text) == labels


def test_labels_for_maps_are_said_not_to_be_compared():
    maps = {"map": np.random.default_rng(0).normal(size=(20, 4, 5, 5)).astype(np.float32)}
    found = judge(outputs_of(maps, maps, torch.zeros(20, 5, 5, dtype=torch.int64)))
    assert found.status == "ok" and "100.00 % of 20 samples at 500 positions" in found.text
    assert "labels are not compared, the outputs [N, 4, 5, 5]" in found.text
    assert "at 500 positions" not in judge(outputs_of(maps, maps, torch.zeros(20, dtype=torch.int64))).text


def test_a_metric_that_was_named_judges():
    values = {"value": np.arange(1, 51, dtype=np.float32)[:, None]}
    target = torch.zeros(50, 1)
    near = judge(outputs_of(values, {"value": values["value"] * np.float32(1.05)}, target, ["mean_absolute_error"]))
    assert near.status == "ok" and near.text == (
        "mean absolute error 25.5 (float) -> 26.775 (artifact): 1.275 more (50 samples)")
    far = judge(outputs_of(values, {"value": values["value"] * np.float32(1.2)}, target, ["mean_absolute_error"]))
    assert far.status == "warning" and "5.1 more (50 samples), more than 2.55" in far.text
    assert "are lost from reference to artifact" in whole(far)
    gated = judge(outputs_of(values, values, target, ["mean_absolute_error"]), max_drop=0.5)
    assert gated.status == "ok" and gated.rule.passed and gated.rule.of == "accuracy"
    broken = judge(outputs_of(values, {"value": values["value"] + 1}, target, ["mean_absolute_error"]), max_drop=0.5)
    assert broken.status == "failed" and "`options.max_drop` allows 0.5" in broken.text and broken.rule.measured == 1.0


def test_a_metric_that_compares_with_float_judges_nothing_by_itself():
    values = {"value": np.arange(50, dtype=np.float32)[:, None]}
    found = judge(outputs_of(values, values, None, ["cosine"]))
    assert found.status == "ok" and "nothing measured the task: the values of the output 'value' equal" in found.text


def test_a_float_network_that_the_metric_finds_nothing_right_in_is_a_warning():
    maps = {"map": np.eye(2, dtype=np.float32)[np.zeros((8, 3, 3), np.int64)].transpose(0, 3, 1, 2)}
    found = judge(outputs_of(maps, maps, torch.ones(8, 3, 3, dtype=torch.int64), ["mean_iou"]))
    assert found.status == "warning" and "the float network itself has nothing right" in found.text
    assert found.findings[0].about == "float"


def test_a_gate_does_not_hide_that_the_float_network_has_nothing_right():
    maps = {"map": np.eye(2, dtype=np.float32)[np.zeros((8, 3, 3), np.int64)].transpose(0, 3, 1, 2)}
    found = judge(outputs_of(maps, maps, torch.ones(8, 3, 3, dtype=torch.int64), ["mean_iou"]), max_drop=1.0)
    assert found.status == "warning" and found.findings[0].about == "float"
    assert found.rule.passed and found.allowed == 1.0


def test_points_and_sentences():
    assert points_lost({"float": 90.0, "artifact": 88.5}) == 1.5
    assert points_lost({"float": None, "artifact": None}) is None
    assert Finding("float", "it is dark", "night", "wait").text == "it is dark. Likely cause: night. Wait."


@pytest.mark.parametrize(("float_too", "text"), [
    (True, "output 'value' are not finite. Likely cause: a root or logarithm of numbers below 0"),
    (False, "the artifact's output 'value' are not finite. Likely cause: a root, logarithm or division whose operand"),
])
def test_what_is_not_finite_is_not_blamed_on_bits(float_too, text):
    signal = np.random.default_rng(0).normal(size=(8, 4, 4)).astype(np.float32)
    broken = signal.copy()
    broken[3, 1] = np.nan
    found = judge(outputs_of({"value": broken if float_too else signal}, {"value": broken}))
    assert found.status == "warning" and text in whole(found) and "few bits" not in whole(found)


def test_against_floats_answers_the_verdict_says_so_and_strange_inputs_leave_it_open():
    eye = np.eye(CLASSES, dtype=np.float32)[balanced(200)]
    answers = outputs_of({"scores": eye[:, :, None]}, {"scores": np.roll(eye, 1, 1)[:, :, None]}, metrics=["f1"])
    found = judge(answers, max_drop=3.0)
    assert found.status == "failed" and "against float's answers 100.00 % (float) -> 0.00 % (artifact)" in found.text
    same = outputs_of({"scores": eye[:, :, None]}, {"scores": eye[:, :, None]}, metrics=["f1"])
    assert judge(same).status == "ok"
    assert judge(same, Seen(images(255.0), images(255.0))).status == "unknown"
