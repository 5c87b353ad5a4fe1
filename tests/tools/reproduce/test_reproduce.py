"""The command: a study of tiny networks through `isobit sweep`, and the page that its index fills."""

from __future__ import annotations

import json

import pytest

from isobit.sweep.hashes import build_sha256
from isobit.sweep.results import INDEX
from tests.tools.small_grid import small_data
from tools.documents import read_json
from tools.reproduce import reproduce
from tools.reproduce.plan import Group, Line

SMALL = ("images.count=32", "images.batch_size=16")
GOOD = Line("ds_cnn", "qdrop_w4a4", ("method.steps=2", *SMALL), seeds=(1, 2))
POOL = Line("resnet20", "mse_w8a8", ("images.batch_size=16",), (1,), "pool")
NO_IMAGES = Line("ds_cnn", "qdrop_w4a4", ("images.count=32", "images.batch_size=33"), (1,))
PLAN = (Group("one", (GOOD, POOL)), Group("two", (NO_IMAGES,)), Group("best", view="best"))
PAGE = "Mine.\n" + "".join(
    f"<!-- reproduce:{name} -->\n<!-- /reproduce:{name} -->\nWords about {name}.\n"
    for name in ("environment", "one", "two", "best")
)


@pytest.fixture
def call(tmp_path):
    """Runs the command line on the plan above, with folders of its own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text(PAGE)

    def run(*arguments):
        folders = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")]
        return reproduce.main([*folders, *arguments], PLAN)

    return run


@pytest.mark.slow
@pytest.mark.onnxruntime
def test_a_study_is_swept_fills_the_page_and_a_failed_cell_is_told(call, tmp_path, capfd):
    small_data(tmp_path / "data", pictures=True)
    assert call("--list") == 0 and "4 todo" in capfd.readouterr().out
    assert (tmp_path / "docs" / "results.md").read_text() == PAGE
    assert call("--jobs", "2") == 1
    page, numbers = (tmp_path / "docs" / "results.md").read_text(), read_json(tmp_path / "docs" / "results.json")
    assert page.startswith("Mine.\n") and "Words about best." in page and build_sha256()[:12] in page
    good, pool = numbers["groups"]["one"]["lines"]
    assert good["measured"] == good["seeds"] == 2 and 0 <= good["top1"] <= 100 and good["units"] >= 4
    assert good["compared"] > 0 == good["differing"] and good["cpu_s"] >= 0 and good["undecided_percent"] is not None
    assert pool["images"] == "pool" and pool["measured"] == 1 and pool["undecided_percent"] is None
    assert numbers["groups"]["one"]["networks"]["ds_cnn"]["float"] == 100.0
    (bad,) = numbers["groups"]["two"]["lines"]
    assert bad["state"] == "failed" and "33" in bad["failed"]["error"] and bad["failed"]["error"] in page
    assert build_sha256()[:12] in read_json(tmp_path / "docs" / "code.json")["states"]

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").glob("*/manifest.json")}
    assert len(before) == 3 and call("--groups", "one") == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").glob("*/manifest.json")}
    assert read_json(tmp_path / "docs" / "results.json")["groups"]["one"] == numbers["groups"]["one"]


def test_rendering_keeps_every_word_and_every_line_that_was_not_measured_again(call, tmp_path, capsys):
    line = {"network": "ds_cnn", "recipe": "qdrop_w4a4", "bits": "W4A4", "edits": list(GOOD.sets), "images": "calib",
            "note": "", "seeds": 2, "measured": 2, "top1": 33.0, "deviation": 0.5, "cpu_s": 4}
    kept = {"groups": {"one": {"lines": [line], "networks": {"ds_cnn": {"float": 91.0}},
                               "before": {"measured_on": ["A Processor, code 0123456789ab"], "differing": 0}}}}
    (tmp_path / "docs" / "results.json").write_text(json.dumps(kept))
    page = tmp_path / "docs" / "results.md"
    page.write_text(PAGE.replace("Words about one.", "Other words, by hand."))
    assert call("--render") == 0 and "0 cells of the index read" in capsys.readouterr().out
    text = page.read_text()
    assert "33.00 ±0.50" in text and "Other words, by hand." in text and "0123456789ab" in text
    assert call("--render") == 0 and page.read_text() == text
    assert not (tmp_path / "out" / INDEX).exists()


def test_wrong_options_are_refused_in_words(call, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("--groups", "three")
    assert "no such group: three" in capsys.readouterr().err
    (tmp_path / "docs" / "results.md").unlink()
    assert call("--render") == 2
    assert "the document is not there" in capsys.readouterr().err
