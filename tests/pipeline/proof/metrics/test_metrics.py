"""A metric is one file: it is counted where it applies, and stands in JSON, on the screen and in the report."""

import json

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.metrics import METRICS, all_metrics
from isobit.pipeline.proof.outputs import KINDS
from tests.examples import plugins

STAGES = ("float", "artifact")
LARGEST = """\
import numpy as np
from isobit.pipeline.proof.metrics import metric


@metric("{name}", "largest difference to float", {kinds}, labels={labels})
class Largest:
    def __init__(self, stages):
        self.values = dict.fromkeys(stages)

    def add(self, outputs):
        for stage, given in outputs.results.items():
            found = float(np.abs(given - outputs.results["float"]).max())
            self.values[stage] = max(found, self.values[stage] or 0.0)
"""


@pytest.fixture
def plug(monkeypatch, tmp_path):
    def add(name="largest", kinds=tuple(KINDS), labels=False):
        text = LARGEST.format(name=name, kinds=kinds, labels=labels)
        plugins.install(monkeypatch, tmp_path, "isobit.metrics", name, text, METRICS)

    return add


def answered(*batches, labels=None):
    answers = Answers(STAGES)
    for float_outputs, artifact in batches:
        results = dict(zip(STAGES, map(np.float32, (float_outputs, artifact)), strict=True))
        answers.add(results, None if labels is None else torch.tensor(labels))
    return answers


def test_the_metrics_of_the_house_have_fields_of_their_own():
    assert {metric.name for metric in all_metrics()} == {"agreement", "signal_to_noise", "top1"}
    assert all(metric.published for metric in all_metrics())
    assert answered(([[1, 0]], [[1, 0]])).measured == {}


def test_a_plug_in_counts_every_batch_and_says_a_number_for_each_stage(plug):
    plug()
    said = answered(([[1, 0]], [[1, 2]]), ([[1, 0]], [[2, 0]])).measured["largest"]
    assert said.values == {"float": 0.0, "artifact": 2.0}
    assert said.text == "largest difference to float: float 0, artifact 2"


@pytest.mark.parametrize(("kinds", "labels", "given"), [(("maps",), False, [0]), (("classes",), True, None)])
def test_where_a_metric_does_not_apply_it_says_nothing(plug, kinds, labels, given):
    plug(kinds=kinds, labels=labels)
    assert answered(([[1, 0]], [[1, 2]]), labels=given).measured == {}


def test_a_metric_of_a_name_that_is_taken_names_its_distribution(plug):
    all_metrics()
    plug(name="top1")
    with pytest.raises(InputError, match="the metric 'top1' of throw-away 1.2 has the same name as one that is there"):
        answered(([[1, 0]], [[1, 0]]))


def test_a_plug_in_is_reported_by_a_build(plug, monkeypatch, tmp_path):
    from isobit import build as story
    from isobit.cli.summary import build_lines
    from isobit.pipeline.recipe.file import load_recipe
    from isobit.pipeline.samples.data import array_batches
    from tests.examples import tiny

    plug()
    model, images = tiny.model_and_images()
    data = array_batches(images, None, 4, "calib", "memory")
    recipe = load_recipe("minmax_w8a8", ["images.batch_size=4", "images.count=12"])
    build = story.compile_model(model, recipe, "reference", data, None, tmp_path / "out")
    published = json.loads((tmp_path / "out" / "parity.json").read_text())["metrics"]["largest"]
    assert published["title"] == "largest difference to float" and published["values"]["float"] == 0.0
    assert published["values"]["artifact"] > 0
    line = build.parity.measured["largest"].text
    assert f"\n{line}.\n" in (tmp_path / "out" / "report.md").read_text()
    shown = build_lines(build.folder, build.manifest, build.parity, "model.pt2", "torch")
    assert any(line in row for row in shown)
