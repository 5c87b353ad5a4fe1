"""Figures in sentences: found whatever their numbers are, compared with the numbers, written anew; none is loose."""

from pathlib import Path

import pytest

from isobit.pipeline.errors import InputError
from tools.figures import prose
from tools.figures.figures import documents

ROOT = Path(__file__).parents[3]
FIGURE = prose.Figure("page.md", "takes {} to {} of the time ({} codes).", lambda numbers: numbers["it"]["values"])


def numbers(*values):
    return {"it": {"values": values}}


def test_numbers_are_replaced_and_line_ends_stay():
    text = "It takes 0.3 to\n0.55 of the time (1,234 codes). It ends.\n"
    assert FIGURE.written(text, numbers("0.3", "0.55", "1,234")) == text
    assert FIGURE.written(text, numbers("1", "20.5", "–")) == "It takes 1 to\n20.5 of the time (– codes). It ends.\n"
    assert prose.write(text, "other.md", numbers("1"), [FIGURE]) == text


@pytest.mark.parametrize("text", ["It takes long.", "It takes 1 to 2 of the time (3 codes). " * 2])
def test_a_sentence_that_is_not_there_once_is_an_error(text):
    with pytest.raises(InputError, match="stands there [02] times"):
        FIGURE.written(text, numbers("1", "2", "3"))


def test_loose_numbers_are_those_that_nothing_covers():
    text = ("Loses 2.5 points, or 3 to 4 %. It takes 1 to 2 of the time (3,000 codes). Code `5 ms`, [x](7 s).\n"
            "```\n8 kB\n```\n<!-- bench:a -->\n9 times\n<!-- /bench:a -->\nW4A8, 32 x 32, a 20-byte name, 12,345 "
            "codes.\n")
    found = prose.loose(text, "page.md", [FIGURE], {("page.md", "or 3 to 4 %"): "why", ("other.md", "2.5 points"): ""})
    assert found == ["2.5 points", "12,345 codes"]


@pytest.mark.parametrize("number", ["5-10 %", "120 µs", "268,104 bytes", "2.5-fold", "0.3 AP"])
def test_units_and_ranges_of_every_kind_are_seen(number):
    assert prose.loose(f"It is {number} here.", "page.md", (), {}) == [number]


@pytest.mark.parametrize("document", documents(ROOT))
def test_every_measured_number_of_the_documents_has_its_record(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert prose.loose(text, document, prose.FIGURES, prose.EXEMPT) == [], "add it to tools/figures/prose.py"


def test_exemptions_stand_in_their_documents():
    for document, words in prose.EXEMPT:
        assert words in " ".join((ROOT / document).read_text(encoding="utf-8").split()), (document, words)
