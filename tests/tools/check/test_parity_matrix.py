"""The parity matrix: lines for every target, an interrupted run goes on, and a wrong code is an exit code of 1."""

import json

import pytest

from isobit.backends.base import BACKENDS
from isobit.pipeline.model.modelfile import LoadedModel
from tests.examples.tiny import model_and_images
from tools.check import parity_matrix
from tools.documents import fill, read_json

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


def test_numbers_are_summed_by_target_and_what_was_not_built_is_told(run, tmp_path, monkeypatch):
    document = tmp_path / "parity.md"
    document.write_text("Mine.\n<!-- parity:matrix -->\n<!-- /parity:matrix -->\n")
    monkeypatch.setattr(parity_matrix, "DOCUMENT", document)
    assert run("--write-docs", "--targets", f"reference:nowhere,{TARGET}")[0] == 1
    lines = json.loads((tmp_path / "parity.json").read_text())["lines"]
    compared = sum(line.get("compared", 0) for line in lines)
    text = document.read_text()
    assert [line["bits"] for line in lines] == ["W8A8", "W8A8", "W4A4", "W4A4"] and "seconds" not in lines[0]
    assert f"| `{TARGET}` | natively | 2 | {compared:,} | 0 |" in text
    assert text.startswith("Mine.\n") and text.count("no device profile 'nowhere'") == 2


def test_the_page_is_what_its_numbers_give():
    text, numbers = parity_matrix.DOCUMENT.read_text(encoding="utf-8"), parity_matrix.DOCUMENT.with_suffix(".json")
    assert fill(text, parity_matrix.tables(read_json(numbers)), "parity", "docs/parity.md") == text
    assert len(read_json(numbers)["lines"]) == 160
