"""`facts.json` is read strictly: what is no artifact of this release is refused with its file."""

from __future__ import annotations

import json

import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.facts.record import FACTS, SampleFacts, read_facts
from tests.examples import pages


def box(label, score=0.9):
    return {"corners": [0, 0, 1, 1], "label": label, "score": score}


def test_what_is_written_is_read_again_with_the_same_bytes(tmp_path):
    made = pages.facts()
    (tmp_path / FACTS).write_text(made.to_json())
    again = read_facts(tmp_path)
    assert again == made and again.to_json() == made.to_json()


def test_a_folder_of_an_older_release_is_said_to_be_one(tmp_path):
    with pytest.raises(InputError, match="no facts.json") as found:
        read_facts(tmp_path)
    assert "Build it again" in str(found.value)


@pytest.mark.parametrize("change", [
    {"form": 1}, {"more": 1}, {"samples_seen": "x"}, {"network": {"parameters": 1, "bytes": 1, "macs": float("nan")}},
    {"tensors": [pages.tensor("w", qmax=2**70)]}, {"tensors": [pages.tensor("w", own=1e300)]},
    {"steps": {"title": "t", "unit": "", "higher_is_better": True, "rows": [
        {"stage": "float", "value": 1e308, "change": None, "cause": ""}]}},
    {"samples": [pages.sample(data="\"><script>")]}, {"samples": [pages.sample(curve=[1001])]},
])
def test_what_is_no_such_file_is_refused(tmp_path, change):
    content = json.loads(pages.facts().to_json())
    (tmp_path / FACTS).write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match="no facts that can be read") as found:
        read_facts(tmp_path)
    assert FACTS in found.value.where


@pytest.mark.parametrize(("before", "after", "changed"), [
    (pages.classes(1, 0), pages.classes(1, 2), False), (pages.classes(1, 0), pages.classes(0, 1), True),
    ({"text": "a"}, {"text": "a"}, False), ({"text": "a"}, {"text": "b"}, True), ({}, {}, False),
    ({"boxes": [box("x")]}, {"boxes": [box("x", 0.2)]}, False), ({"boxes": [box("x")]}, {"boxes": [box("y")]}, True),
])
def test_a_changed_answer_is_another_class_another_text_or_other_boxes(before, after, changed):
    sample = SampleFacts.model_validate({**pages.sample(), "before": before, "after": after})
    assert sample.changed == changed
    assert sample.right(sample.before) == (None if not sample.before.classes else sample.before.classes[0].index == 0)
