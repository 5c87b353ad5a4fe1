"""What the check under kills finds: lost cells, cells built twice, artifacts that differ."""

from __future__ import annotations

import json

import yaml

from isobit.cli.artifacts.sweep import check_words, model_options
from isobit.sweep.cells import cells_of
from isobit.sweep.folder import Runs, write_whole
from isobit.sweep.lease import take
from isobit.sweep.study import load_study
from tests.examples.processes import running as process_with
from tests.isobit.sweep.test_lease import HOLD
from tools.sweep.check import compare, findings, running, worker_of, write_study


def swept(folder, **cells):
    """A sweep's folder: by cell its status, hash and events."""
    runs, lines = Runs(folder), []
    for name, (status, sha256, events) in cells.items():
        runs.work(name).mkdir(parents=True)
        for event in events:
            runs.note(name, event)
        row = {"key": name * 12, "artifact": f"cells/{name}", "status": status, "sha256": sha256, "error": ""}
        lines.append(json.dumps(row))
    write_whole(folder / "index.jsonl", "\n".join(lines))
    return folder


def test_the_study_has_sixty_cells_that_isobit_takes(tmp_path):
    study = load_study(write_study(tmp_path, 60), model_options())
    for model in study.models:
        check_words(model, model.name, tmp_path)
    assert len(cells_of(study)) == 60
    before = (tmp_path / "plain.pth").read_bytes()
    assert len(yaml.safe_load(write_study(tmp_path, 12).read_text())["models"]) == 1
    assert (tmp_path / "plain.pth").read_bytes() == before


def test_a_killed_build_that_was_repeated_is_fine_and_anything_after_built_is_not(tmp_path):
    good = swept(tmp_path / "good", a=("done", "1", ["started", "built"]),
                 b=("done", "2", ["started", "started", "built"]), c=("done", "3", ["started"]))
    hashes, wrong, events = findings(good)
    assert not wrong and events == {"started": 4, "built": 2} and set(hashes.values()) == {"1", "2", "3"}
    bad = swept(tmp_path / "bad", a=("done", "1", ["started", "built", "started", "built"]),
                b=("todo", "", ["started"]), c=("done", "2", ["started", "built", "started"]))
    assert len(findings(bad)[1]) == 3


def test_artifacts_that_differ_or_are_missing_are_named():
    assert not compare({"local": {"a": "1"}, "ray": {"a": "1"}}) and not compare({"local": {"a": "1"}})
    assert len(compare({"local": {"a": "1", "b": "2"}, "ray": {"a": "3"}})) == 2


def test_running_builds_and_their_parents_are_found(tmp_path):
    (tmp_path / "work").mkdir()
    with process_with(HOLD, tmp_path / "work" / "a", "held") as process:
        given_up = take(tmp_path / "work" / "b")
        given_up.give_up()
        assert list(running(tmp_path)) == [process.pid]
        assert worker_of(process.pid) is None  # this test is its parent: nothing to kill
        process.kill()
        process.wait()
        assert not list(running(tmp_path))
    assert worker_of(2**22 + 1) is None
