"""The figures of README and docs are those of the numbers, and old ones are said to be old."""

import shutil
from pathlib import Path

import pytest

from tools import code_state
from tools.figures import figures
from tools.figures.pages import PAGES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """What the documents are made of, in a checkout of its own."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("docs", *code_state.SOURCES):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", root)
    return root


def test_every_document_is_current():
    assert not figures.not_current(ROOT), "run python tools/figures/figures.py --write"


@pytest.mark.slow
def test_code_that_changes_makes_its_figures_old(copied, capsys):
    """The figures of sizes are of the present code; a kernel of the C changes them, and nothing else."""
    name = code_state.note_state(copied / "docs", copied)
    for file in ("sizes", "instructions"):
        found = copied / "docs" / f"{file}.json"
        found.write_text(found.read_text().replace(figures.prose.read_numbers(copied)[file]["code"], name))
    assert figures.main(["--write"], copied) == 0
    assert "All figures are of the present code." in (copied / "docs" / "c.md").read_text()
    kernel = next((copied / "backends" / "c").rglob("*.py"))
    kernel.write_text(kernel.read_text() + "\nSLOWER = True\n")
    capsys.readouterr()
    assert figures.main([], copied) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()].count("docs/c.md") == 1
    assert figures.main(["--write"], copied) == 0
    assert "Figures of older code: sizes, instructions (changed since: c)." in (copied / "docs" / "c.md").read_text()
    assert "All figures are of the present code." in (copied / "docs" / "tvm.md").read_text()
    assert figures.main([], copied) == 0
    assert "sizes" in [part.name for part in figures.cheap_and_old(copied)]


def test_a_number_that_is_not_the_records_is_named(copied, capsys):
    page = copied / "docs" / "parity.md"
    before = page.read_text()
    page.write_text(before.replace("160 artifacts", "150 artifacts"))
    assert figures.main([], copied) == 1 and "docs/parity.md: not current" in capsys.readouterr().out
    page.write_text(before.replace("artifacts, no differing code", "artifacts differ"))
    assert figures.main([], copied) == 2 and "stands there 0 times" in capsys.readouterr().err
    page.write_text(before)


@pytest.mark.parametrize(("name", "content"), [("performance.json", "{"), ("results.json", "[]"), ("parity.md", None)])
def test_documents_that_cannot_be_read_are_told(copied, capsys, name, content):
    path = copied / "docs" / name
    before = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    assert figures.main([], copied) == 2 and "cannot be read" in capsys.readouterr().err
    path.write_text(before)


def test_cheap_parts_are_measured_by_their_commands(monkeypatch):
    ran = []
    monkeypatch.setattr(figures.subprocess, "run", lambda command, **_: ran.append(command[1:]))
    parts = {part.name: part for page in PAGES for part in page.parts(page.numbers()) if part.cheap}
    figures.measure_again([parts["finish"]])
    assert ran == [["tools/reproduce/reproduce.py", "--groups", "finish"]]
