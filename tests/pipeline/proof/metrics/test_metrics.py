"""A metric is one file: where it is named, it stands in JSON, on the screen and in the report, for every stage."""

import json

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import METRICS, as_array, class_output, find_metric, metric_names, whole_numbers
from tests.examples import plugins, tiny

STAGES = ["float", "calibrated", "reference", "artifact"]
LARGEST = """\
import numpy as np
from isobit.pipeline.proof.metrics import metric


@metric("{name}", "largest difference to the target", unit="V", higher_is_better=False)
class Largest:
    def __init__(self):
        self.found = None

    def update(self, outputs, target):
        found = float(np.abs(outputs["logits"].max(axis=1) - np.asarray(target)).max())
        self.found = max(found, self.found or 0.0)

    def compute(self):
        return self.found
"""


@pytest.fixture
def plug(monkeypatch, tmp_path):
    def add(name="largest"):
        plugins.install(monkeypatch, tmp_path, "isobit.metrics", name, LARGEST.format(name=name), METRICS)

    return add


def test_the_metrics_of_the_house():
    assert metric_names() == [
        "agreement", "character_error_rate", "cosine", "f1", "iou", "map", "map50", "mean_absolute_error", "mean_iou",
        "signal_to_noise", "top1", "top5", "word_error_rate",
    ]
    found = {name: find_metric(name) for name in metric_names()}
    assert {name for name, one in found.items() if one.published} == {"agreement", "cosine", "signal_to_noise", "top1"}
    assert {name for name, one in found.items() if one.decoded} == {
        "map", "map50", "word_error_rate", "character_error_rate"}
    assert {name: one.against for name, one in found.items() if one.against != "target"} == {
        "agreement": "artifact", "cosine": "float", "signal_to_noise": "float"}
    assert {name: one.answers for name, one in found.items() if one.answers} == {
        "map": "boxes", "map50": "boxes", "f1": "answers", "iou": "answers", "mean_iou": "classes",
        "word_error_rate": "texts", "character_error_rate": "texts"}
    assert not any(found[name].higher_is_better for name in (
        "mean_absolute_error", "word_error_rate", "character_error_rate"))


def test_a_loss_is_what_gets_worse():
    assert find_metric("top1").loss(90.0, 88.5) == 1.5 and find_metric("word_error_rate").loss(3.0, 5.0) == 2.0


def test_a_metric_of_a_name_that_is_taken_names_its_distribution(plug):
    assert find_metric("top1").name == "top1"
    plug(name="top1")
    with pytest.raises(InputError, match="the metric 'top1' of throw-away 1.2 has the same name as one that is there"):
        find_metric("top1")


def test_targets_are_read_as_arrays_of_one_shape():
    assert as_array(torch.tensor([1, 2]), "m").tolist() == as_array([1, np.int64(2)], "m").tolist() == [1, 2]
    for target in ([np.zeros(2), np.zeros(3)], ["a", "b"], [{"boxes": []}], 3):
        with pytest.raises(InputError, match="the metric 'm' cannot compare with targets of type"):
            as_array(target, "m")
    assert whole_numbers(torch.tensor([1, 2], dtype=torch.int32), (2,), "m").dtype == np.int64
    with pytest.raises(InputError, match=r"targets of shape \[2\] and type int64"):
        whole_numbers(torch.tensor([1, 2]), (3,), "m")


def test_an_output_that_chooses_no_class_is_told_with_its_shape():
    with pytest.raises(InputError, match=r"the metric 'm' is for outputs that choose a class, .* is \[N, 1, 7\]"):
        class_output({"out": np.zeros((2, 1, 7))}, "m")


@pytest.fixture
def built(tmp_path):
    """Builds the tiny network with these metrics and says what it says in all three places."""
    def build(metrics, target, **options):
        from isobit import build as story
        from isobit.cli.summary import build_lines
        from isobit.pipeline.recipe.file import load_recipe
        from isobit.pipeline.samples.data import array_batches

        model, images = tiny.model_and_images()
        data, judged = (array_batches(images, of, 4, use, "memory") for of, use in ((None, "calib"), (target, "eval")))
        recipe = load_recipe("minmax_w8a8", ["images.batch_size=4", "images.count=12"])
        build = story.compile_model(model, recipe, "reference", data, None if target is None else judged,
                                    tmp_path / "out", story.Options(metrics=metrics, **options))
        screen = "\n".join(build_lines(build.folder, build.manifest, build.parity, "model.pt2", "torch"))
        report = (tmp_path / "out" / "report.md").read_text()
        return build, json.loads((tmp_path / "out" / "parity.json").read_text()), report, screen

    return build


def test_a_plug_in_is_reported_by_a_build(plug, built):
    plug()
    target = torch.zeros(len(tiny.model_and_images()[1]))
    build, parity, report, screen = built(("largest",), target, max_drop=100.0)
    published = parity["metrics"]["largest"]
    assert published["title"] == "largest difference to the target" and list(published["values"]) == STAGES
    assert all(value > 0 for value in published["values"].values()) and not published["higher_is_better"]
    line = build.parity.measured["largest"].text
    assert line.startswith("largest difference to the target, V: float ") and ", artifact " in line
    assert f"\n{line}.\n" in report and line in screen
    assert parity["gate"]["rules"][-1]["of"] == "accuracy" and "V (float) ->" in parity["verdicts"]["accuracy"]["text"]


@pytest.mark.parametrize("name", ["top1", "top5", "cosine", "signal_to_noise", "agreement", "mean_absolute_error"])
def test_every_metric_is_reported_for_every_stage_in_every_place(built, name):
    model, images = tiny.model_and_images()
    with torch.no_grad():
        logits = model(images)
    target = logits if name == "mean_absolute_error" else logits.argmax(1)
    build, parity, report, screen = built((name,), target)
    metric = find_metric(name)
    values = parity["metrics"][name]["values"]
    assert list(values) == STAGES
    assert all((value is None) == (stage == metric.against) for stage, value in values.items())
    assert build.parity.measured[name].text in report and build.parity.measured[name].text in screen


def test_the_distance_of_every_output_is_told_without_a_name(built):
    _, parity, report, screen = built((), None)
    assert set(parity["metrics"]) == {"agreement", "cosine", "signal_to_noise"}
    said = parity["output_values"]["logits"]
    assert parity["metrics"]["signal_to_noise"]["values"] == {"float": None} | said["signal_to_noise_db"]
    ratio, cosine = said["signal_to_noise_db"], said["cosine"]
    line = "logits: " + ", ".join(f"{stage} {ratio[stage]:.1f} dB (cosine {cosine[stage]:.4f})" for stage in STAGES[1:])
    assert f"* {line}" in report and f"  to float    {line}" in screen
