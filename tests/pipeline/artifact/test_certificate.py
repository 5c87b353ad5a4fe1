"""A certificate is of one folder, and what is derived anew must be what it says."""

import json
from types import SimpleNamespace

import pytest

from isobit.pipeline.artifact.certificate import CERTIFICATE, KEPT, certified, verify, write_certificate
from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest
from isobit.pipeline.artifact.manifest import file_table

TENSORS = {"a_q": {"verdict": "parts", "over": "sums", "digest": "a" * 64, "bound": 9},
           "b_q": {"verdict": "open", "over": "nothing"},
           "c_q": {"verdict": "equal", "over": "codes", "digest": "c" * 64}}


@pytest.fixture
def folder(tmp_path):
    """An artifact of one file."""
    parity = {**dict.fromkeys(KEPT), "samples": 3, "codes": {"compared": 40}, "other": 1,
              "verdicts": {"parity": {"status": "ok"}},
              "gate": {"passed": True, "rules": [{"rule": "no code differs", "passed": True}]},
              "every_input": {"sum_limit": 10, "tensors": TENSORS}}
    (tmp_path / "parity.json").write_text(json.dumps(parity))
    files = {name: entry.model_dump(mode="json") for name, entry in file_table(tmp_path).items()}
    (tmp_path / MANIFEST).write_text(json.dumps({"files": files, DIGEST: content_digest({"files": files})}))
    write_certificate(tmp_path, "a processor")
    return tmp_path


def derived(**found):
    return lambda folder: {name: SimpleNamespace(digest=digest, bound=bound) for name, (digest, bound) in found.items()}


def test_it_says_what_was_proven_and_how_much_was_derived_anew(folder):
    said, problems = verify(folder, derived(a_q=("a" * 64, 9), c_q=("c" * 64, None), more=("dd", 1)))
    assert problems == [] and said[0].endswith("proven on a processor")
    assert "every input: 1 tensors exact, 1 part" in said[1] and said[2].endswith(
        "2 of 3 tensors; of the others (of two tensors, of tables, in float, logits) run.py compares samples: b_q")
    assert [line.partition(", ")[2] for line in said[3:]] == [
        "read back: not", "directed: none", "sampled: 40 codes of 3 samples"]
    assert set(certified(folder)[0]["proven"]) == set(KEPT)


@pytest.mark.parametrize(("found", "words"), [
    ({"a_q": ("ab", 9)}, "a_q: its thresholds"), ({"c_q": ("ca", None)}, "c_q: its thresholds"),
    ({"a_q": ("a" * 64, 10)}, "a_q: its sums, worked out from the files, reach 10"),
])
def test_what_is_derived_must_be_what_was_proven(folder, found, words):
    said, problems = verify(folder, derived(**found))
    assert len(problems) == 1 and problems[0].startswith(words) and said


def test_what_the_files_gave_when_they_were_built_they_still_give(folder):
    write_certificate(folder, "a processor", ["a_q", "c_q"])
    found = {"a_q": ("a" * 64, 9), "c_q": ("c" * 64, None)}
    assert verify(folder, derived(**found))[1] == []
    assert verify(folder, derived(a_q=found["a_q"]))[1] == ["c_q: its sums can no longer be worked out from the files"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "{" * 5000, json.dumps({"proven": {"every_input": 3}})])
def test_what_cannot_be_read_is_told_in_one_line(folder, content):
    (folder / CERTIFICATE).write_text(content)
    said, problems = verify(folder, derived())
    assert said == [] and len(problems) == 1 and "can be read" in problems[0]


def rewritten(folder, edit):
    """Say other things in certificate and parity.json, all hashes and digests with them."""
    parity = json.loads((folder / "parity.json").read_text())
    edit(parity)
    (folder / "parity.json").write_text(json.dumps(parity))
    files = {"parity.json": file_table(folder)["parity.json"].model_dump(mode="json")}
    (folder / MANIFEST).write_text(json.dumps({"files": files, DIGEST: content_digest({"files": files})}))
    write_certificate(folder, "a processor")


@pytest.mark.parametrize(("edit", "words"), [
    (lambda parity: parity["gate"]["rules"][0].update(passed=False), "a rule of the build did not hold: no code"),
    (lambda parity: parity["gate"].update(passed=False), "did not pass"),
    (lambda parity: parity["gate"].update(rules=[]), "held to no rule"),
    (lambda parity: parity["every_input"]["tensors"]["a_q"].update(bound=11), "a_q: its sums reach 11, more than 10"),
    (lambda parity: parity["every_input"]["tensors"]["c_q"].pop("digest"), "can be read"),
    (lambda parity: parity["every_input"]["tensors"]["c_q"].update(digest=""), "c_q: said to be 'equal' without"),
    (lambda parity: parity["every_input"]["tensors"]["c_q"].update(verdict="exact"), "c_q: said to be 'exact'"),
    (lambda parity: parity["every_input"]["tensors"]["a_q"].update(bound="many"), "can be read"),
])
def test_claims_that_no_proof_can_have_made_fail_however_they_are_sealed(folder, edit, words):
    rewritten(folder, edit)
    said, problems = verify(folder, derived())
    assert said == [] and len(problems) == 1 and words in problems[0]


def test_a_target_without_a_second_reader_says_so_and_a_linked_folder_is_seen(folder, tmp_path):
    assert "the hashes alone" in verify(folder, derived())[0][2]
    (folder / "more").symlink_to(folder.parent)
    assert verify(folder, derived())[1] == ["more: nothing says what it is"]


@pytest.mark.parametrize("name", ["parity.json", MANIFEST, CERTIFICATE])
def test_a_file_that_is_not_there_is_told(folder, name):
    (folder / name).unlink()
    assert "can be read" in verify(folder, derived())[1][0]
