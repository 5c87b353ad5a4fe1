"""The search: what a trial is, what comes out, that the recipe which is found builds what was measured, refusals."""

from __future__ import annotations

import pytest
import torch

from isobit.analyze import measured, open_subject, place_at
from isobit.build import compile_model
from isobit.judge import Judge, hold_back
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.proof.drop import Drop
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.watcher import Quiet
from isobit.result import Options
from isobit.search import mixed_recipe, search, weight_losses
from isobit.space import Sizes
from tests.examples.tiny import model_and_images

RECIPE = load_recipe("nearest_w4a4", ["images.batch_size=4"])


def net(samples=48):
    model, images = model_and_images(samples=samples)
    with torch.no_grad():
        model.head.weight.mul_(20)
        labels = model(images).argmax(1)
    return model, images, labels


def run(max_drop, recipe=RECIPE, evaluation=True, calibrations=6, labelled=True):
    model, images, labels = net()
    given = array_batches(images, labels if labelled else None, 4, "calib", "arrays")
    judged = array_batches(images, labels, 16, "eval", "arrays") if evaluation else None
    watcher = TimedStages(Quiet())
    subject, judge = hold_back(
        open_subject(model, recipe, "onnx", given, judged, Options(max_drop=max_drop), watcher))
    analysis = measured(subject, (2, 4, 8), 16, watcher)
    found = search(subject, judge, analysis, watcher, wanted="found", calibrations=calibrations)
    return found, model, given, judged, analysis


def test_what_is_found_passes_is_small_and_builds_as_measured(tmp_path):
    found, model, given, judged, _ = run(5.0)
    assert found.passed and found.best.drop.lost <= 5.0 and not found.held_back and found.samples == 48
    assert len(found.trials) <= 6 and found.best.bytes == min(one.bytes for one in found.trials if one.passed)
    build = compile_model(model, found.recipe, "onnx", given, judged, tmp_path / "out")
    accuracy = build.parity.to_json()["accuracy"]
    assert accuracy["artifact"] == pytest.approx(found.best.drop.after)
    assert build.manifest.sizes["weights_packed"] == found.best.bytes  # 2, 4 and 8 bits are stored as such


def test_without_an_evaluation_set_half_of_the_calibration_is_held_back():
    found, *_ = run(100.0, evaluation=False, labelled=False)
    assert found.held_back and found.samples == 24 and found.best.drop.title == "the same choice as float"


def test_nothing_passes_and_the_best_is_said(monkeypatch):
    losses = iter((9.0, 5.0, 7.0))
    monkeypatch.setattr(Judge, "drop", lambda self, reference: Drop("top-1", "%", 90.0, 80.0, next(losses)))
    found, *_ = run(1.0, calibrations=9)
    assert not found.passed and found.best.drop.lost == min(trial.drop.lost for trial in found.trials)
    assert set(found.trials[-1].bits.values()) == {8} and "loses too much" in found.best.text


def test_what_is_found_is_no_larger_than_the_same_bits_everywhere(monkeypatch):
    """All of four bits pass here, and nothing that sensitivities would choose."""

    def drop(self, reference):
        bits = {tensor.quantizer.spec.grid.bits for tensor in quantized_tensors(reference.graph).weights()}
        return Drop("top-1", "%", 90.0, 80.0, 0.0 if bits == {4} else 9.0)

    monkeypatch.setattr(Judge, "drop", drop)
    found, *_ = run(1.0)
    assert found.passed and set(found.best.bits.values()) == {4} and len(found.trials) <= 6


def test_the_policy_of_the_recipe_is_tried_as_well_and_layers_are_lowered_from_it(monkeypatch):
    """Four bits everywhere lose too much, and with 8 bits in the first and last layer they do not."""
    seen = []

    def drop(self, reference):
        bits = [tensor.quantizer.spec.grid.bits for tensor in quantized_tensors(reference.graph).weights()]
        seen.append(bits)
        return Drop("top-1", "%", 90.0, 80.0, 0.5 if bits[-1] == 8 and min(bits) == 4 else 9.0)

    monkeypatch.setattr(Judge, "drop", drop)
    recipe = load_recipe("qdrop_w4a4", ["images.batch_size=4", "method.steps=4"])
    found, *_ = run(1.0, recipe=recipe, calibrations=10)
    assert [8, 4, 4, 8] in seen and len(seen) <= 10
    assert found.passed and list(found.best.bits.values()) == [4, 4, 4, 8]
    assert found.recipe.policy == "none" and found.recipe.method == recipe.method


def test_fewer_bits_never_count_as_less_loss():
    found, _, given, _, analysis = run(100.0, calibrations=1)
    watcher = TimedStages(Quiet())
    model, *_ = net()
    subject = open_subject(model, RECIPE, "onnx", given, None, Options(), watcher)
    at_bits = place_at(subject.quantized, (2, 4, 8))
    losses = weight_losses(subject, at_bits, Sizes.of(at_bits, analysis, {}), 48, watcher)
    assert len(losses) == 4 == len(found.best.bits)
    for known in losses:
        assert sorted(known) == [2, 4, 8] and known[2] >= known[4] >= known[8] > 0.0


def test_a_module_inside_another_keeps_its_own_line():
    recipe = mixed_recipe(RECIPE, {"stem": 4, "stem.inner": 2}, "found")
    assert [line.where for line in recipe.overrides] == ["stem", "stem.inner"]
