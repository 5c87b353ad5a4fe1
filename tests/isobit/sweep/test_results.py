"""Rows read off folders, the index, groups of seeds."""

from __future__ import annotations

import csv
import json

import pytest

from isobit.sweep.cells import KEY
from isobit.sweep.folder import Runs
from isobit.sweep.hashes import build_sha256
from isobit.sweep.results import DONE, FAILED, TODO, Index, as_csv, groups, row_of
from tests.examples.sweeps import cell, row, seeds


def artifact(runs: Runs, name: str, **timings) -> None:
    folder = runs.artifact(name)
    folder.mkdir(parents=True)
    files = {
        "manifest.json": {"sizes": {"model": 3296}, "sha256": "ab", "packages": {"torch": "2.0"}},
        "parity.json": {"codes": {"differing": 2, "compared": 900}},
        "facts.json": {"steps": {"title": "mAP", "unit": "points", "higher_is_better": True, "rows": [
            {"stage": "float", "value": 57.0}, {"stage": "artifact", "value": 56.5}]}, "units": [
                {"kept_nearest": True, "undecided": 0.0}, {"kept_nearest": False, "undecided": 0.5}]},
        "timings.json": {"stages": {"calibrate": 1.5, "prove": 0.5}, "cpu_stages": {"calibrate": 2.5},
                         "machine": {"processor": "A Processor", "cores": 2}, **timings},
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))


def test_a_row_is_what_stands_on_disk(tmp_path):
    runs, one = Runs(tmp_path), cell()
    assert row_of(one, runs).status == TODO
    runs.fail(one.name, "capture", "no such file")
    assert row_of(one, runs).status == FAILED and row_of(one, runs).error == "capture: no such file"
    artifact(runs, one.name)
    found = row_of(one, runs)
    assert (found.status, found.measure, found.value, found.bytes, found.differing, found.seconds, found.sha256) == (
        DONE, "mAP", 56.5, 3296, 2, 2.0, "ab") and found.latency is None and found.error == ""
    assert (found.units, found.kept_nearest, found.undecided, found.compared) == (2, 1, 0.25, 900)
    assert (found.machine, found.packages, found.code) == (
        "A Processor, 2 cores", {"torch": "2.0"}, build_sha256()[:KEY])


def test_the_processors_time_is_that_of_a_build_from_its_beginning(tmp_path):
    """One that went on from another's checkpoints did not do all of it."""
    runs, one = Runs(tmp_path), cell()
    artifact(runs, one.name)
    runs.work(one.name).mkdir(parents=True)
    for seconds in ({"calibrate": 2.5}, {}):
        runs.note(one.name, "started")
        assert row_of(one, runs).cpu_seconds == seconds


def test_an_artifact_whose_records_are_broken_is_still_done(tmp_path):
    runs, one = Runs(tmp_path), cell()
    runs.artifact(one.name).mkdir(parents=True)
    for name in ("manifest.json", "facts.json", "timings.json"):
        (runs.artifact(one.name) / name).write_text("[" if name == "facts.json" else "{}")
    assert row_of(one, runs).status == DONE and row_of(one, runs).value is None


def test_the_index_has_a_line_a_cell_and_follows_the_disk(tmp_path):
    runs, cells = Runs(tmp_path), [cell("a"), cell("b")]
    index = Index(cells, runs)
    artifact(runs, cells[0].name)
    assert [one.status for one in index.write()] == [DONE, TODO]
    artifact(runs, cells[1].name)
    index.write()
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == [DONE, DONE] and lines[0]["accuracy"]["artifact"] == 56.5
    table = list(csv.DictReader((tmp_path / "index.csv").read_text().splitlines()))
    assert [line["model"] for line in table] == ["a", "b"] and table[0]["accuracy_float"] == "57.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "index.csv", "index.jsonl"]


def test_no_text_of_a_cell_is_a_formula():
    assert "'=cmd()" in as_csv([row(model="=cmd()")]) and ",=cmd" not in as_csv([row(model="=cmd()")])


def test_groups_differ_in_more_than_the_seed_and_give_mean_and_deviation():
    rows = [*seeds([90.0, 92.0]), *seeds([80.0], recipe="minmax_w4a4"), row(None, status=FAILED, recipe="x")]
    first, second, third = groups(rows)
    assert first.accuracy == 91.0 and first.deviation == pytest.approx(2**0.5) and first.whole
    assert second.accuracy == 80.0 and second.deviation is None and second.title == "minmax_w4a4"
    assert third.accuracy is None and not third.whole and third.bytes is None
    assert first.values == {"accuracy": 91.0, "size": 1000.0, "latency": None}


def test_latency_is_what_the_build_measured(tmp_path):
    runs, one, other = Runs(tmp_path), cell("a"), cell("b")
    said = {"processor": "a", "runtime": "b", "float_runtime": "c", "artifact_ms": 1.5, "float_ms": 3.0, "ratio": 2.0,
            "low": 1.9, "high": 2.1, "rounds": 15}
    artifact(runs, one.name, latency=said)
    artifact(runs, other.name, latency={"artifact_ms": "fast"})
    assert row_of(one, runs).latency == 1.5 and row_of(other, runs).latency is None
