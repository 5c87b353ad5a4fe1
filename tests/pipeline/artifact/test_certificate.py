"""A certificate is of one folder, and what is derived anew must be what it says."""

import json
from types import SimpleNamespace

import pytest

from isobit.pipeline.artifact.certificate import CERTIFICATE, KEPT, certified, verify, write_certificate
from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest
from isobit.pipeline.artifact.manifest import file_table

TENSORS = {"a_q": {"verdict": "parts", "over": "sums", "digest": "aa", "bound": 9}, "b_q": {"verdict": "open"},
           "c_q": {"verdict": "equal", "over": "codes", "digest": "cc"}}


@pytest.fixture
def folder(tmp_path):
    """An artifact of one file."""
    parity = {**dict.fromkeys(KEPT), "samples": 3, "codes": {"compared": 40}, "other": 1,
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
    said, problems = verify(folder, derived(a_q=("aa", 9), c_q=("cc", None), more=("dd", 1)))
    assert problems == [] and said[0] == "proven on a processor"
    assert said[1].startswith("every input: 1 tensors exact, 1 part") and "2 of 3 tensors" in said[2]
    assert said[3:] == ["read back: not", "directed: none", "sampled: 40 codes of 3 samples"]
    assert set(certified(folder)[0]["proven"]) == set(KEPT)


@pytest.mark.parametrize(("found", "words"), [
    ({"a_q": ("ab", 9)}, "a_q: its thresholds"), ({"c_q": ("ca", None)}, "c_q: its thresholds"),
    ({"a_q": ("aa", 8)}, "a_q: its sums, worked out from the files, reach 8"),
])
def test_what_is_derived_must_be_what_was_proven(folder, found, words):
    said, problems = verify(folder, derived(**found))
    assert len(problems) == 1 and problems[0].startswith(words) and said


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "{" * 5000, json.dumps({"proven": {"every_input": 3}})])
def test_what_cannot_be_read_is_told_in_one_line(folder, content):
    (folder / CERTIFICATE).write_text(content)
    said, problems = verify(folder, derived())
    assert said == [] and len(problems) == 1 and "can be read" in problems[0]
