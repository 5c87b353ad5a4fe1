"""The tables that follow from the code: the documents hold them as they are now, and what is in a cell is right."""

from pathlib import Path

import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.recipe.family import list_families
from tools.check import tables

ROOT = Path(__file__).parents[3]


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first one, without quotes."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize("document", tables.DOCUMENTS)
def test_every_document_is_current(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "<!-- table:" in text
    assert tables.current(text, document) == text, "run python tools/check/tables.py --write"


def test_every_table_stands_in_a_document():
    texts = "".join((ROOT / document).read_text(encoding="utf-8") for document in tables.DOCUMENTS)
    assert all(f"<!-- table:{name} -->" in texts for name in tables.TABLES)


def test_a_document_that_is_not_current_is_named_and_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- table:policies -->\nold\n<!-- /table:policies -->\n", encoding="utf-8")
    monkeypatch.setattr(tables, "DOCUMENTS", ("page.md",))
    assert tables.main([], tmp_path) == 1 and "page.md: not current" in capsys.readouterr().out
    assert tables.main(["--write"], tmp_path) == 0 and "old" not in page.read_text(encoding="utf-8")
    assert tables.main([], tmp_path) == 0


def test_marks_of_no_table_are_refused():
    with pytest.raises(InputError, match="nothing"):
        tables.current("<!-- table:nothing -->\n<!-- /table:nothing -->\n", "page.md")


def test_cells_say_what_the_code_says():
    assert cells(tables.policies())["brecq"] == ["weights 8, input 8, output 8", "output 8", "weights 8", "–"]
    operators = {name: row[1:] for row in map(list, _rows(tables.operators())) for name in row[0].split(", ")}
    assert operators["`conv2d`"] == ["integers", "integers"]
    assert operators["`flip`"] == ["integers: codes move"] * 2
    assert operators["`gelu`"] == ["float between quantizers", "integers: a table of codes"]
    assert operators["any other"] == ["float between quantizers, or refused", "refused"]
    needs, parameters = cells(tables.methods())["lsq`+"]
    assert needs == "images" and "`steps=20000`" in parameters
    assert len(cells(tables.recipes())) == len(list_families())
    names = ("build", "analyze", "compare", "report", "bench", "sweep", "verify", "sign", "recipes", "targets",
             "doctor")
    assert set(cells(tables.commands())) == {f"isobit {name}" for name in names}
    assert {"MODEL", "--recipe", "--target", "--dry-run"} <= set(cells(tables.options()))
    assert {"--bits", "--max-drop", "--minimize", "--save"} <= set(cells(tables.analysis())) - {"MODEL", "--recipe"}


def _rows(table):
    return ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:])
