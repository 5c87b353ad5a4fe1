"""The plan as a study: what `isobit sweep` takes, each cell once, with its seeds and its images."""

from __future__ import annotations

from pathlib import Path

import pytest

from isobit.cli.artifacts.sweep import check_words, model_options
from isobit.sweep.cells import cells_of as cells_of_study
from isobit.sweep.study import load_study
from tests.tools.small_grid import small_data
from tools.bench.rows import CELLS, DS_CNN, RESNET
from tools.reproduce.plan import PLAN, Group, Line, cells_of
from tools.reproduce.study import model_of, models, study_of, write_study


def test_the_whole_plan_is_a_study_and_has_its_cells(tmp_path):
    """No data is there but the classes: a study is one all the same, and says every recipe once."""
    (tmp_path / "data" / "imagenet").mkdir(parents=True)
    (tmp_path / "data" / "imagenet" / "classes.txt").write_text("one\ntwo\n")
    read = load_study(write_study(PLAN, tmp_path / "data", tmp_path), model_options())
    for place, model in enumerate(read.models):
        check_words(model, f"models.{place}", tmp_path)
    found = [(cell.model, cell.edits, cell.seed) for cell in cells_of_study(read)]
    assert sorted(found) == sorted((model_of(cell), cell.sets, cell.seed) for cell in cells_of(PLAN))


def test_an_experiment_of_two_groups_stands_there_once_with_the_seeds_of_both(tmp_path):
    edits = ("method.steps=5",)
    line, more = (Line(RESNET, "qdrop_w4a4", edits, seeds) for seeds in ((1,), (1, 2)))
    pool = Line(RESNET, "qdrop_w4a4", edits, (7,), "pool")
    made = study_of((Group("a", (line,)), Group("b", (more, pool))), tmp_path)
    assert made["recipes"] == [
        {"name": "qdrop_w4a4", "set": ["method.steps=5"], "models": ["resnet20"], "seeds": [1, 2]},
        {"name": "qdrop_w4a4", "set": ["method.steps=5"], "models": ["resnet20-pool"], "seeds": [7]}]
    calib, other = made["models"]
    assert other["calib_data"] == str(tmp_path / "cifar10" / "pool") != calib["calib_data"]
    assert other["mean"] == calib["mean"] and other["eval_data"] == calib["eval_data"]


def test_the_detector_is_measured_by_its_boxes(tmp_path):
    said = models(tmp_path)[CELLS]
    file, _, function = said["decoder"].rpartition(":")
    assert said["metric"] == "map" and function == "decode" and Path(file).is_file()
    assert "metric" not in models(tmp_path)[DS_CNN]


@pytest.mark.onnxruntime
def test_files_of_a_model_are_where_the_data_are(tmp_path):
    small_data(tmp_path, pictures=True)
    for name in (DS_CNN, RESNET):
        said = models(tmp_path)[name]
        assert all(Path(said[key]).exists() for key in ("file", "calib_data", "eval_data"))
        assert Path(said["arch"].partition(":")[0]).is_file()
