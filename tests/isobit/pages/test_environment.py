"""How numbers are told, and that the page allows one script alone: its own."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from isobit.pages.compare import MOST
from isobit.pages.environment import (
    TEMPLATES,
    both_answers,
    coded,
    count,
    counted,
    curve_path,
    decibel,
    percent,
    sample_verdict,
    shape_text,
    size_text,
)
from isobit.pages.report import report_page
from isobit.pipeline.facts.record import Box, SampleFacts
from tests.examples import pages
from tests.examples.pages import made_artifact


def test_only_the_page_s_own_script_may_run(tmp_path):
    page = report_page(made_artifact(tmp_path / "net"))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert "base-uri 'none'; form-action 'none'" in page


def test_templates_load_nothing():
    for path in TEMPLATES.iterdir():
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")  # a name, nothing is loaded
        assert not re.search(r"https?:|@import|url\(|\bsrc=", text), path.name


@pytest.mark.parametrize(("number", "text"), [(999, "999 B"), (13_999, "14.0 kB"), (4_848_335, "4.8 MB"),
                                               (9_999, "9,999 B"), (2_500_000_000, "2.5 GB")])
def test_sizes(number, text):
    assert size_text(number) == text


def test_numbers_that_are_not_there_are_dashes():
    assert (percent(None), percent(0.003), decibel(None), decibel(21.46)) == ("–", "0.30 %", "–", "21.5")
    assert [count(number) for number in (385e6, 12, 999_999)] == ["385 million", "12", "1 million"]


def test_code_in_a_text_is_marked_and_escaped():
    assert coded("take `<b>` & `c`") == "take <code>&lt;b&gt;</code> &amp; <code>c</code>"


def test_boxes_are_counted_by_class():
    boxes = [Box(corners=[0, 0, 1, 1], label=label, score=0.5) for label in ("b", "a", "b")]
    assert counted(boxes) == "1 × a, 2 × b"


def test_two_classes_of_one_label_are_two_rows():
    sides = [{"classes": [{"index": index, "label": "crane", "share": 0.5}]} for index in (134, 517)]
    sample = SampleFacts.model_validate({**pages.sample(), "before": sides[0], "after": sides[1]})
    assert both_answers(sample) == [("crane", 0.5, None), ("crane", None, 0.5)]


@pytest.mark.parametrize(("truth", "before", "after", "words"), [
    (0, 0, 0, "✓ same choice, right"), (2, 0, 0, "✗ same choice, both are wrong"), (None, 0, 0, "✓ same choice"),
    (0, 0, 1, "≠ another choice: the artifact is wrong"), (1, 0, 1, "≠ another choice: the artifact is right"),
    (2, 0, 1, "≠ another choice: both are wrong"), (None, 0, 1, "≠ another choice"),
])
def test_a_sample_says_who_is_right(truth, before, after, words):
    given = pages.sample(before=[before, 5], after=[after, 5], truth_index=truth)
    assert sample_verdict(SampleFacts.model_validate(given))[1] == words


def test_curves_and_shapes_in_words():
    assert curve_path([0, 1000, 500]) == "M0 1000L500 0L1000 500" and shape_text([8, None, 4]) == "8 × ? × 4"


def test_every_artifact_of_a_comparison_has_a_line_of_its_own():
    style = (TEMPLATES / "style.css").read_text()
    known = [re.search(rf"\.line\.s{place} {{([^}}]*)}}", style) for place in range(1, MOST)]
    assert None not in known and len({found[1] for found in known}) == MOST - 1
