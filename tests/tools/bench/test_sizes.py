"""Sizes of compiled networks: read off artifacts, written as numbers, shown in two documents."""

import shutil

import pytest

from isobit.pipeline.errors import InputError
from tests.tools.small_subject import small_subject
from tools.bench import sizes
from tools.documents import read_json

LINE = {"weights_packed": 268336, "model": 274152, "flash": 279672, "arena": 32768, "stack": 528}
CONTENT = sizes.numbers([
    {"network": "resnet20", "recipe": "nearest_w8a8", "target": "c", "profile": "cortex-m4", **LINE},
    {"network": "resnet20", "recipe": "nearest_w4a4", "target": "tvm", "profile": "aarch64", "model": 263952},
], "a command")


def test_each_document_shows_its_target():
    assert sizes.c_tables(CONTENT)["c"].splitlines()[2:] == [
        "| ResNet-20, `nearest_w8a8` | 268,336 | 274,152 | 279,672 | 32,768 | 528 |"]
    assert sizes.tvm_tables(CONTENT)["tvm"].splitlines()[2:] == ["| ResNet-20, `nearest_w4a4` | `aarch64` | 263,952 |"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_sizes_are_those_of_the_artifact(tmp_path):
    found = sizes.sizes(small_subject(tmp_path), "nearest_w8a8", "c", "generic")
    assert 0 < found["weights_packed"] < found["model"] and found["arena"] > 0


def test_a_network_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="ResNet-20 is not there"):
        list(sizes.measure({}, tmp_path))
    assert sizes.main(["--data", str(tmp_path)]) == 2


@pytest.mark.slow
def test_both_documents_are_written_from_one_file(tmp_path, monkeypatch):
    for name, mark in (("c.md", "c"), ("tvm.md", "tvm")):
        (tmp_path / name).write_text(f"Words.\n\n<!-- sizes:{mark} -->\n<!-- /sizes:{mark} -->\n")
    monkeypatch.setattr(sizes, "DOCS", tmp_path)
    monkeypatch.setattr(sizes, "NUMBERS", tmp_path / "sizes.json")
    monkeypatch.setattr(sizes, "trained", lambda data: {})
    monkeypatch.setattr(sizes, "measure", lambda subjects, data: CONTENT["artifacts"])
    assert sizes.main(["--write-docs"]) == 0
    assert read_json(tmp_path / "sizes.json")["artifacts"] == CONTENT["artifacts"]
    assert "279,672" in (tmp_path / "c.md").read_text() and "263,952" in (tmp_path / "tvm.md").read_text()
