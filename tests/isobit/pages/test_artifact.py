"""What a page reads is checked first: a folder that is none, or that lies, is refused with its file."""

from __future__ import annotations

import json

import pytest

from isobit.pages.artifact import PROOF, open_artifact
from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.errors import InputError
from isobit.pipeline.facts.record import FACTS
from tests.examples.pages import PROVEN, manifest, write_artifact


def test_a_folder_is_read_with_its_name(tmp_path):
    made = open_artifact(write_artifact(tmp_path / "net"))
    assert made.name == "net" and made.proof.codes.compared == 1000
    assert set(made.tensors()) == set(made.entries()) == {"step0", "step0_w", "step1", "step1_w", "step2", "step2_w"}


@pytest.mark.parametrize("name", [MANIFEST, FACTS, PROOF])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[]", b'{"samples": "many"}'])
def test_a_file_that_is_missing_or_broken_is_named(tmp_path, name, content):
    folder = write_artifact(tmp_path / "net")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as found:
        open_artifact(folder)
    assert "net" in found.value.where


def test_facts_of_another_artifact_are_refused(tmp_path):
    folder = write_artifact(tmp_path / "net")
    other = write_artifact(tmp_path / "other", verdicts=[])  # of the same tensors
    for name in (FACTS, PROOF):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes((other / name).read_bytes() + b" ")
        with pytest.raises(InputError, match=f"{name} is not the one that the manifest lists"):
            open_artifact(folder)
        assert open_artifact(folder, manifest()).manifest == manifest()  # while it is built there is none
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(manifest().to_json())
    with pytest.raises(InputError, match="manifest lists"):
        open_artifact(folder)


def test_numbers_that_are_none_are_refused(tmp_path):
    folder = write_artifact(tmp_path / "net")
    (folder / PROOF).write_text(json.dumps({**PROVEN, "samples": None}))
    with pytest.raises(InputError, match="no proof"):
        open_artifact(folder)
