"""What a build leaves for pages: facts of the network that was built, the same bytes again, and a page of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from isobit import facts as made
from isobit.build import compile_model
from isobit.pages import report
from isobit.pages.artifact import open_artifact
from isobit.pages.report import PAGE, report_page
from isobit.pipeline.artifact.manifest import read_manifest
from isobit.pipeline.facts.record import FACTS, read_facts
from isobit.pipeline.proof.observed import spread
from isobit.pipeline.recipe.allocation import Allocation, Point
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches, open_data
from tests.examples import tiny
from tests.examples.pages import PageReader
from tests.isobit.commands import FAST, LEARN, SMALL, contents


def test_a_build_writes_facts_and_a_page_that_its_manifest_lists(command, tmp_path):
    assert command("--out", "a", recipe=LEARN).exit_code == 0
    folder = tmp_path / "a"
    facts, manifest = read_facts(folder), read_manifest(folder)
    assert {FACTS, PAGE} <= set(manifest.files)
    assert facts.command[0] == "model.pth" and "tiny.py:Residual" in facts.command and "--out" not in facts.command
    assert [line.name for line in facts.verdicts] == ["PARITY", "ACCURACY"]
    assert [row.stage for row in facts.steps.rows] == ["float", "calibrated", "reference", "artifact"]
    assert facts.network.parameters > 1000 and facts.network.bytes >= 4 * facts.network.parameters - 100
    assert any(one.flipped for one in facts.tensors) and facts.units and facts.units[0].hard is not None
    assert len(facts.samples) == 8 and len(facts.samples[0].before.classes) == 3
    page = (folder / PAGE).read_text()
    assert not PageReader(page).faults and page == report_page(open_artifact(folder))


def test_two_builds_leave_the_same_bytes(command, tmp_path):
    for name in ("a", "b"):
        assert command("--out", name, recipe=FAST).exit_code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("recipe", ["minmax_w8a8", "dmbq_w2a2"])
def test_a_build_from_python_has_a_page_without_a_command(files, tmp_path, recipe):
    model, _ = tiny.model_and_images()
    data = open_data(files / "calib.npz", batch_size=4, purpose="calib")
    chosen = load_recipe(recipe, SMALL[1::2])
    if recipe.startswith("dmbq"):
        pytest.importorskip("scipy")
        chosen = load_recipe(recipe, [*SMALL[1::2], "method.epochs=1"])
    compile_model(model, chosen, "reference", data, None, tmp_path / "a")
    page = (tmp_path / "a" / PAGE).read_text()
    assert "Built from Python" in page and "no runner" in page and not PageReader(page).faults


def built(files, out, model=None):
    data = open_data(files / "calib.npz", batch_size=4, purpose="calib")
    model = tiny.model_and_images()[0] if model is None else model
    return compile_model(model, load_recipe("minmax_w8a8", SMALL[1::2]), "reference", data, None, out)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid(), nn.Sequential(nn.Softmax(1), nn.Flatten(1))])
def test_scores_of_the_network_are_shown_as_they_are(files, tmp_path, last):
    net = nn.Sequential(tiny.model_and_images()[0], last).eval()
    built(files, tmp_path / "a", net)
    tops = []
    for sample in read_facts(tmp_path / "a").samples:
        before, after = ({one.label: one.share for one in side.classes} for side in (sample.before, sample.after))
        assert all(after[label] == pytest.approx(before[label], abs=0.15) for label in {*before} & {*after})
        tops.append(max(before.values()))
    known = net(torch.from_numpy(np.load(files / "calib.npz")["x"])).amax(1)  # a softmax of them would be flatter
    assert tops and all((known - top).abs().min() < 1e-3 for top in tops)


@pytest.mark.parametrize(("module", "name", "missing"), [(made, "network_nodes", {FACTS, PAGE}),
                                                         (report, "draw_network", {PAGE})])
def test_a_drawing_that_fails_is_a_note_and_no_failed_build(files, tmp_path, monkeypatch, module, name, missing):
    def fail(*_):
        raise ValueError("cannot be drawn")

    monkeypatch.setattr(module, name, fail)
    build = built(files, tmp_path / "a")
    text = (tmp_path / "a" / "report.md").read_text()
    assert build.passed and {FACTS, PAGE} - {*build.manifest.files} == missing
    for file in missing:
        assert not (tmp_path / "a" / file).exists() and f"{file} is not written" in text
        assert any(note.startswith(f"{file} is not written") for note in build.notes)


def test_a_full_disk_fails_the_build(tmp_path):
    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        made.attempted(tmp_path / "x", fail)


def allocation(*omegas, chosen=0.5, uniform=0.5):
    points = tuple(Point(10 * place, omega) for place, omega in enumerate(omegas))
    return Allocation(BitBudget(average=3, options=(2, 4)), {"a": 10}, {"a": 2}, {"a": {2: omegas[0]}}, points,
                      Point(5, chosen), {2: Point(5, uniform)}, 4)


def test_of_a_frontier_every_point_is_drawn_once_and_none_that_is_no_number():
    found = made.frontier_facts(allocation(3.0, 2.0, 1.0))
    assert [point.omega for point in found.points] == [3.0, 2.0, 1.0] and found.omegas == {"a": 3.0}
    found = made.frontier_facts(allocation(*range(1000, 0, -1)))
    assert len(found.points) == made.MOST_POINTS + 1 and found.points[-1].omega == 1
    found = made.frontier_facts(allocation(math.inf, 2.0, math.nan, uniform=math.inf))
    assert [point.omega for point in found.points] == [2.0] and not found.uniform and not found.omegas
    assert made.frontier_facts(allocation(2.0, 1.0, chosen=math.inf)) is None
    assert made.frontier_facts(allocation(math.inf)) is None


def test_half_of_the_shown_samples_are_changed_ones_and_none_is_shown_twice():
    assert made.shown_places([], 100) == spread(100, 8)
    found = made.shown_places([3, 12, 50, 60, 99], 100)
    assert found[:4] == [3, 12, 50, 60] and len({*found}) == 8
    assert sorted(made.shown_places([0, 1, 2], 3)) == [0, 1, 2] and made.shown_places([0], 1) == [0]


class Rows(nn.Module):
    """64 rows of answers for each sample."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)).reshape(-1, 8))


def test_several_rows_a_sample_leave_the_facts_whole(tmp_path):
    torch.manual_seed(0)
    images = array_batches(torch.randn(12, 3, 8, 8), None, 4, "calib", "test")
    built = compile_model(Rows().eval(), load_recipe("minmax_w2a2", ["images.batch_size=4", "images.count=12"]), "onnx",
                          images, None, tmp_path / "out")
    assert not [note for note in built.notes if "not written" in note]
    assert read_facts(tmp_path / "out").samples
