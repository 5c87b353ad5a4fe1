"""The command `isobit report`: the artifact's page with the latency of its build, outside the artifact."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from isobit.cli import app
from isobit.pages.report import PAGE, write_page
from isobit.pipeline.artifact.timings import write_timings
from tests.examples.pages import LATENCY, PageReader, write_artifact
from tests.isobit.commands import contents


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_page_has_the_latency_that_the_one_inside_must_not_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_artifact(tmp_path / "net")
    write_page(folder)
    inside = (folder / PAGE).read_text()
    write_timings(folder, {}, {}, [], {}, LATENCY)
    result = run("net")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "report-net.html").read_text()
    assert not PageReader(text).faults and "time over float 0.50" in text and "one thread of a processor" in text
    assert (folder / PAGE).read_text() == inside and "time over float" not in inside and "timings.json" in inside
    assert run("net").exit_code == 0  # its own page is replaced


def test_a_build_that_measured_nothing_is_said_to_be_one(tmp_path):
    result = run(write_artifact(tmp_path / "net"), "--out", tmp_path / "page.html")
    assert result.exit_code == 0 and "no latency; its screen said why" in result.stderr
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize("out", ["net/page.html", "notes.txt", "gone/page.html", "net"])
def test_nothing_else_is_overwritten(tmp_path, out):
    folder = write_artifact(tmp_path / "net")
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    result = run(folder, "--out", tmp_path / out)
    assert result.exit_code == 2 and "Traceback" not in result.stderr and contents(tmp_path) == before


def test_a_folder_that_is_no_artifact_is_refused(tmp_path):
    assert run(tmp_path, "--out", tmp_path / "page.html").exit_code == 2
