"""The parity matrix: lines for every target, an interrupted run goes on, and a wrong code is an exit code of 1."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import parity_matrix

from backends.base import BACKENDS
from pipeline.modelfile import LoadedModel
from tests.tiny import model_and_images

TARGET = "reference:paper"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def tiny(name, options):
        model, images = model_and_images(samples=options.samples)
        return LoadedModel(model, None, name, "", None), images

    monkeypatch.setattr(parity_matrix, "network", tiny)

    def run(*arguments):
        code = parity_matrix.main(["--networks", "resnet18", "--bits", "8-8,4-4", "--targets", TARGET, "--samples", "9",
                                   "--out", str(tmp_path / "kept.json"), *arguments])
        return code, capsys.readouterr().out, json.loads((tmp_path / "kept.json").read_text())

    return run


def test_a_line_for_each_and_none_twice(run):
    code, printed, kept = run()
    assert code == 0 and len(printed.splitlines()) == 2
    line = kept[f"resnet18/w8a8/{TARGET}"]
    assert (line["differing"], line["samples"], line["runs"]) == (0, 9, "natively") and line["compared"] > 1000
    assert run()[1] == ""


def test_a_wrong_code_is_counted(run, monkeypatch):
    backend = BACKENDS.get("reference")
    opened = backend.open

    class Off:
        def __init__(self, *where):
            self.session = opened(*where)

        def run(self, x):
            results = dict(self.session.run(x))
            name = next(iter(results))
            results[name] = results[name].copy()
            results[name].flat[0] ^= 4
            return results

    monkeypatch.setattr(backend, "open", Off, raising=False)
    code, printed, kept = run()
    assert code == 1
    assert kept[f"resnet18/w8a8/{TARGET}"]["differing"] == 1 and kept[f"resnet18/w8a8/{TARGET}"]["largest"] == 4
    assert "| 1 | 4" in printed


def test_what_cannot_be_built_is_a_line_and_fails(run):
    code, printed, _ = run("--targets", "reference:nowhere")
    assert code == 1 and "not built" in printed and "no device profile 'nowhere'" in printed


def test_the_table_stands_in_its_document():
    text = parity_matrix.DOCUMENT.read_text(encoding="utf-8")
    assert "<!-- parity:matrix -->" in text and "<!-- /parity:matrix -->" in text
