"""What a drop is measured on, and where nothing says what one is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit import passes
from isobit.analyze import open_subject
from isobit.calib.calibrate import calibrate
from isobit.judge import hold_back
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.errors import CalibrationError, InputError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.watcher import Quiet
from isobit.result import Options
from tests.examples import ports

RECIPE = load_recipe("nearest_w8a8", ["images.batch_size=4"])
LAYER = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval()


def subject_of(model, images, labels=None, recipe=RECIPE, evaluation=None, names=()):
    given = array_batches(images, labels, 4, "calib", "arrays", names)
    return open_subject(model, recipe, "onnx", given, evaluation, Options(max_drop=1.0), TimedStages(Quiet()))


def test_every_second_calibration_sample_is_held_back_and_judges():
    images = torch.randn(20, 6)
    with torch.no_grad():
        labels = LAYER(images).argmax(1)
    subject, judge = hold_back(subject_of(LAYER, images, labels))
    assert judge.samples == 10 and torch.equal(subject.images, images[::2]) and torch.equal(subject.labels, labels[::2])
    drop = judge.drop(passes.legalize(calibrate(subject.quantized, subject.images))[0])
    assert (drop.title, drop.before) == ("top-1 accuracy", 100.0) and drop.lost >= 0


def test_an_evaluation_set_judges_and_nothing_is_held_back():
    images = torch.randn(20, 6)
    evaluation = array_batches(images[:7], None, 4, "eval", "arrays")
    subject, judge = hold_back(subject_of(LAYER, images, evaluation=evaluation))
    assert judge.samples == 7 and len(subject.images) == 20


def test_several_inputs_are_halved_together():
    model, inputs = ports.network("siamese")
    subject, judge = hold_back(subject_of(model, inputs, names=("left", "right")))
    assert [len(one) for one in subject.images] == [len(inputs[0]) - len(inputs[0]) // 2] * 2
    assert judge.samples == len(inputs[0]) // 2


def test_numbers_without_a_metric_have_no_drop():
    model, images = ports.network("segmenter")
    subject = subject_of(model, images)
    with pytest.raises(InputError, match="nothing says what a drop"):
        hold_back(subject)


@pytest.mark.parametrize(("samples", "error", "text"), [
    (1, InputError, "cannot be halved"), (6, CalibrationError, "do not fill one batch")])
def test_too_few_samples_to_hold_some_back(samples, error, text):
    recipe = load_recipe("qdrop_w4a4", ["images.batch_size=4"]) if samples > 1 else RECIPE
    subject = subject_of(LAYER, torch.randn(samples, 6), recipe=recipe)
    with pytest.raises(error, match=text):
        hold_back(subject)
