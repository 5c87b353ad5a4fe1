"""The command `isobit compare`: a page, or a message and exit code 2."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from isobit.cli import app
from tests.examples.pages import write_artifact
from tests.isobit.commands import contents


def run(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_a_page_is_written_where_it_is_asked_for(tmp_path):
    folders = [write_artifact(tmp_path / name) for name in "ab"]
    result = run(*folders, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>") and "page.html" in result.stdout


@pytest.mark.parametrize("case", ["one", "none there", "file", "out"])
def test_what_cannot_be_compared_is_refused(tmp_path, case):
    made = write_artifact(tmp_path / "a")
    (tmp_path / "file").write_text("no folder")
    given = {"one": [made], "none there": [made, tmp_path / "gone"], "file": [made, tmp_path / "file"],
             "out": [made, made, "--out", tmp_path / "gone" / "page.html"]}[case]
    result = run(*given)
    assert result.exit_code == 2 and "Traceback" not in result.stderr and "error" in result.stderr
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("place", ["a/manifest.json", "a/page.html", "notes.txt", "link"])
def test_nothing_but_a_page_of_its_own_is_replaced(tmp_path, place):
    folders = [write_artifact(tmp_path / name) for name in "ab"]
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "manifest.json")
    before = contents(tmp_path)
    result = run(*folders, "--out", tmp_path / place)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert contents(tmp_path) == before


def test_a_page_is_replaced_by_the_next(tmp_path):
    folders = [write_artifact(tmp_path / name) for name in "abc"]
    for given in (folders, folders[:2]):
        assert run(*given, "--out", tmp_path / "page.html").exit_code == 0
    assert "2 artifacts side by side" in (tmp_path / "page.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "page.html"]


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in run(tmp_path, "--debug").stderr


def test_a_number_that_nothing_can_show_is_refused(tmp_path):
    folders = [write_artifact(tmp_path / name) for name in "ab"]
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    manifest["sizes"]["model"] = 10**400
    (folders[0] / "manifest.json").write_text(json.dumps(manifest))
    result = run(*folders, "--out", tmp_path / "page.html")
    assert result.exit_code == 2 and "no page can show" in result.stderr and not (tmp_path / "page.html").exists()
