"""What a sweep keeps on disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from isobit.pipeline.errors import InputError
from isobit.sweep.folder import ATTEMPTS, Runs, write_whole


def test_a_cell_is_done_iff_its_artifact_stands(tmp_path):
    runs = Runs(tmp_path / "runs")
    runs.make()
    assert not runs.is_done("a")
    runs.artifact("a").mkdir()
    assert not runs.is_done("a")
    (runs.artifact("a") / "manifest.json").write_text("{}")
    assert runs.is_done("a") and not runs.is_done("b")


def test_failures_are_told_apart_and_forgiven(tmp_path):
    runs = Runs(tmp_path)
    assert runs.failure("a") is None and runs.failed_at("a") is None
    runs.fail("a", "capture", "why", exit_code=2)
    first = runs.failed_at("a")
    assert runs.failure("a") == {"stage": "capture", "message": "why", "exit_code": 2}
    runs.fail("a", "capture", "why")
    assert runs.failed_at("a") != first
    runs.forgive("a")
    assert runs.failure("a") is None


def test_half_a_line_of_a_killed_process_is_none(tmp_path):
    runs = Runs(tmp_path)
    runs.work("a").mkdir(parents=True)
    runs.note("a", "started", lease=1)
    with (runs.work("a") / ATTEMPTS).open("a") as file:
        file.write('{"event": "bu')
    assert [line["event"] for line in runs.attempts("a")] == ["started"] and runs.attempts("b") == []


def test_a_file_is_whole_and_alone(tmp_path):
    write_whole(tmp_path / "x" / "index.jsonl", "one\n")
    write_whole(tmp_path / "x" / "index.jsonl", "two\n")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["index.jsonl"]


def test_a_place_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written") as found:
        Runs(tmp_path / "file" / "runs").make()
    assert found.value.field == "out"


def test_a_cells_process_imports_nothing_heavy_before_it_has_the_lease():
    said = subprocess.run([sys.executable, "-c", "import isobit.sweep.process, sys; print('torch' in sys.modules)"],
                          capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
