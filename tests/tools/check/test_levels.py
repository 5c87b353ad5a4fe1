"""The table of forms and levels: every form at every level, and a gated level that differs is a failure."""

import pytest

from isobit.backends.base import BACKENDS
from isobit.pipeline.proof.counts import CodeCount
from isobit.pipeline.proof.parity import LevelReport
from tests.tools.small_subject import small_subject
from tools.check import levels
from tools.documents import read_json

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("bits", levels.BITS)
def test_both_forms_at_all_levels(bits, tmp_path):
    rows = list(levels.measure(small_subject(tmp_path), bits, 24))
    expected = [(target, level) for target in levels.FORMS for level in BACKENDS.get(target).levels]
    assert [(row.target, row.report.level) for row in rows] == expected
    assert all(row.report.samples == 24 and row.report.codes.compared > 0 and row.size > 1000 for row in rows)
    gated = [row for row in rows if row.gated]
    assert len(gated) == 6
    assert all(row.report.codes.differing == row.report.logits_differing == 0 for row in gated)


@pytest.mark.parametrize(("differing", "gated", "code"), [(0, True, 0), (1, True, 1), (1, False, 0)])
def test_the_exit_code_follows_the_gated_levels(differing, gated, code, monkeypatch, tmp_path, capsys):
    report = LevelReport("basic", gated, 5, CodeCount(200, differing, 3 * differing))
    monkeypatch.setattr(levels, "trained", lambda data: {levels.RESNET: None})
    monkeypatch.setattr(levels, "measure", lambda *_: [levels.Row("w4a4", "onnx", 1234, gated, report)])
    assert levels.main(["--bits", "w4a4"]) == code
    printed = capsys.readouterr().out
    assert "(0.000 %)" in printed or "(0.500 %)" in printed
    assert f"| w4a4 | onnx | 1,234 | basic{'' if gated else ' (not gated)'} | 200 | {differing} (" in printed


def test_without_the_trained_network_it_says_so(tmp_path, capsys):
    assert levels.main(["--data", str(tmp_path)]) == 2
    assert "no resnet20" in capsys.readouterr().err.lower()


def test_levels_with_the_same_counts_share_a_line():
    rows = [levels.Row("w4a4", "onnx", 10, gated, LevelReport(level, gated, 5, CodeCount(200, differing, differing)))
            for level, gated, differing in (("all", True, 0), ("extended", True, 0), ("basic", False, 2))]
    assert list(levels.lines(rows)) == [
        "| w4a4 | onnx | 10 | all, extended | 200 | 0 (0.000 %) | 0 | 0 |",
        "| w4a4 | onnx | 10 | basic (not gated) | 200 | 2 (1.000 %) | 2 | 0 |",
    ]


def test_the_document_shows_what_differs_most_at_each_group_of_levels(tmp_path, monkeypatch):
    (tmp_path / "onnx.md").write_text("Words.\n\n<!-- levels:files -->\n<!-- /levels:files -->\n")
    monkeypatch.setattr(levels, "DOCUMENT", tmp_path / "onnx.md")
    monkeypatch.setattr(levels, "trained", lambda data: {levels.RESNET: None})
    rows = [levels.Row("w4a4", target, size, True, LevelReport(level, True, 5, CodeCount(2000, differing, 3)))
            for target, size, wrong in (("onnx", 1234, 2), ("onnx-qoperator", 1200, 0))
            for level, differing in (("all", 0), ("extended", 0), ("basic", wrong), ("disabled", wrong // 2))]
    monkeypatch.setattr(levels, "measure", lambda *_: rows)
    assert levels.main(["--bits", "w4a4", "--write-docs"]) == 1
    text = (tmp_path / "onnx.md").read_text()
    assert "| w4a4 | 1,234 | 0 | 2 (0.100 %), up to 3 steps | 1,200 | 0 |" in text and "of 2,000:" in text
    assert len(read_json(tmp_path / "levels.json")["files"]) == 8
